package offline

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

var recoverVerb = verb{
	name:  "recover",
	short: "give a cluster that lost its majority for good a new membership",
	usage: `nodesmetadata recover is for a cluster that has lost so many of its instances, for
good, that no majority of them can ever be started again. It rewrites the
membership in the directory of one that is left, which then goes on as the
cluster, with everything that it has.

Take a copy of the directory first. Where several are left, run
"nodesmetadata storage check" on each: take the one that reaches the highest term
and, of these, the highest entry. Recover that one to itself alone, start it, and
let the others join with empty directories. Run it as the user who runs the
instance.

  - What was acknowledged and is only in directories that are lost, is lost.
  - What was on its way and not acknowledged may now take effect.
  - No other directory of the cluster must ever be started again: it would go on
    as a second cluster under the same name. Nor can two directories be recovered
    to go on together: what their logs end with may differ.
`,
	define: func(flags *pflag.FlagSet) job {
		r := &recovery{}
		directoryFlag(flags, &r.directory)
		flags.StringVar(&r.instance, "instance", "",
			"`id=address` of the instance whose directory this is, with its raft address: the only member of the cluster from now on")
		return r
	},
}

type recovery struct {
	directory string
	instance  string
	self      domain.Instance
}

func (r *recovery) check(*console) error {
	faults := errors.Join(given("raft_dir", r.directory), given("instance", r.instance))
	if r.instance == "" {
		return faults
	}
	var err error
	if r.self, err = parseInstance(r.instance); err != nil {
		faults = errors.Join(faults, fmt.Errorf("--instance: %w", err))
	}
	return faults
}

func parseInstance(word string) (domain.Instance, error) {
	id, address, ok := strings.Cut(word, "=")
	if !ok {
		return domain.Instance{}, fmt.Errorf("%q is not id=address", word)
	}
	instance, err := domain.NewInstance(id, address, nil)
	if err != nil {
		return domain.Instance{}, fmt.Errorf("%q: %s", word, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return instance, nil
}

func (r *recovery) do(ctx context.Context, d *console) error {
	directory, err := logstore.ClaimExisting(r.directory)
	if err != nil {
		return err
	}
	defer func() { _ = directory.Close() }() // everything written is durable already
	before, err := inspect(ctx, d, directory)
	if err != nil {
		return err
	}
	d.report(before)
	if err := r.refuse(before); err != nil {
		return fmt.Errorf("%w\nnothing was changed", err)
	}
	if before.Recovered(r.self) {
		d.say("\nThis directory has been recovered to that membership already: there is nothing to do.")
		return nil
	}
	for _, spare := range before.Faults {
		d.notes.logger().Warn(spare.Error() + ": it is not needed")
	}
	d.say("\n%s", strings.TrimSpace(r.announce(before)))
	if err := ctx.Err(); err != nil {
		return err
	}
	backend, _ := d.backends.Named(directory.Backend()) // inspect found it
	err = consensus.Recover(consensus.Recovery{Directory: directory, Backend: backend, Self: r.self, Logger: d.notes.logger()})
	if err != nil {
		return fmt.Errorf("%w\nthe same command can be given again", err)
	}
	after, err := inspect(context.WithoutCancel(ctx), d, directory)
	if err != nil {
		return err
	}
	if err := same(before, after, r.self); err != nil {
		return err
	}
	d.say("\n%s", r.next(after))
	return nil
}

// refuse returns why a directory can't be recovered; nil if it can.
func (r *recovery) refuse(found consensus.Report) error {
	switch {
	case found.RaftID != r.self.ID:
		return fmt.Errorf("--instance: this is the directory of %q, not of %q", found.RaftID, r.self.ID)
	case found.Blank:
		return fmt.Errorf("%s holds no raft state: there is nothing to recover", found.Directory)
	case !found.Sound():
		return faultsOf(found)
	}
	return nil
}

// announce is the text about what is going to be done, and what that means.
func (r *recovery) announce(found consensus.Report) string {
	var text strings.Builder
	_, _ = fmt.Fprintf(&text, "From now on the cluster is, in this directory:\n  %s=%s %s\n", r.self.ID, r.self.RaftAddress, r.self.Suffrage)
	self, member := found.Roster.Find(found.RaftID)
	switch {
	case !member:
		text.WriteString("Beware: as far as this directory knows, this instance had been removed from the cluster: it may lack much.\n")
	case self.Suffrage != domain.Voter:
		text.WriteString("Beware: this instance was no voter: what it has, no majority may have acknowledged.\n")
	}
	_, _ = fmt.Fprintf(&text, `What you must know:
- What was acknowledged and is not in here, is lost. This directory reaches entry %d of term %d:
  if another one is left that reaches a higher term, or a higher entry of the same, recover that one.
- What was on its way, and is in here, takes effect, though it was not acknowledged.
- No other directory of this cluster must be started again: it would go on as a second cluster
  under the same name. Remove them.
`, found.ReachIndex, found.ReachTerm)
	return text.String()
}

// same returns an error unless only the membership has changed, to self alone.
func same(before, after consensus.Report, self domain.Instance) error {
	switch {
	case !after.Sound():
		return fmt.Errorf("the recovered directory can't be read: %w", faultsOf(after))
	case !after.Roster.Equal(domain.NewRoster(self)):
		return errors.New("the membership is not the new one: give the same command again")
	case after.Revision != before.Revision || after.Nodes != before.Nodes || after.ClusterID != before.ClusterID:
		return fmt.Errorf("the registry is at revision %d with %d nodes, and was at revision %d with %d nodes: restore the copy of the directory",
			after.Revision, after.Nodes, before.Revision, before.Nodes)
	}
	return nil
}

// next is the text about what to do after the recovery.
func (r *recovery) next(found consensus.Report) string {
	return fmt.Sprintf(`Done: revision %d, %d nodes. Start it with --raft_id=%s
--raft_advertised_address=%s --storage_backend=%s, and without
--bootstrap_raft_cluster. Others join with empty directories.`,
		found.Revision, found.Nodes, r.self.ID, r.self.RaftAddress, found.Backend)
}
