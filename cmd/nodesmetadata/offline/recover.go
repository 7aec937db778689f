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
	short: "make one instance the cluster, after quorum was lost for good",
	usage: `nodesmetadata recover is for a cluster that has lost its quorum for good: no
majority of the voters can ever be started again. It rewrites the membership in
the directory of one remaining instance, which then continues as a cluster of one,
with everything that is in the directory.

Copy the directory first. If several directories remain, run "nodesmetadata storage
check" on each, and take the one that reaches the highest term and, among those
with the same term, the highest entry. Recover it, start its instance, and let the
others join with empty directories. Run it as the user that runs the instance.

  - Acknowledged writes that are in no remaining directory are lost.
  - Writes that were in flight, and were not acknowledged, may take effect.
  - No other directory of the cluster must ever be started again: a majority of
    them would continue as a second cluster of the same name. Two directories can't
    be recovered to continue together, because the ends of their logs may differ.
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
		d.say("\nThis directory has already been recovered to that membership: there is nothing to do.")
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
		return fmt.Errorf("%w\nyou can run the same command again", err)
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
		text.WriteString("Warning: according to this directory, the instance had been removed from the cluster: much may be missing.\n")
	case self.Suffrage != domain.Voter:
		text.WriteString("Warning: the instance was not a voter: its entries may never have been acknowledged by a majority.\n")
	}
	_, _ = fmt.Fprintf(&text, `What this means:
- An acknowledged write that is not in this directory is lost. It reaches entry %d of term %d:
  if another directory reaches a higher term, or a higher entry of the same term, recover that one.
- A write in this directory takes effect, even if it was never acknowledged.
- No other directory of this cluster must be started again: a majority of them would continue
  as a second cluster of the same name. Remove them.
`, found.ReachIndex, found.ReachTerm)
	return text.String()
}

// same returns an error unless only the membership has changed, to self alone.
func same(before, after consensus.Report, self domain.Instance) error {
	switch {
	case !after.Sound():
		return fmt.Errorf("the recovered directory can't be read: %w", faultsOf(after))
	case !after.Roster.Equal(domain.NewRoster(self)):
		return errors.New("the membership is not the new one: run the same command again")
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
