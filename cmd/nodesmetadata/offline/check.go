package offline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

var checkVerb = verb{
	name:  "storage check",
	short: "look for damage in the directory of an instance",
	usage: `nodesmetadata storage check reads everything in the directory of an instance: the
manifest, every entry of the log, the term and the vote, and every snapshot. It
reports what is there, and what is damaged or missing. It changes nothing.

The exit status is 0 if there is no damage, and 1 if something is damaged, missing
or can't be read.
`,
	define: func(flags *pflag.FlagSet) job {
		c := &check{}
		directoryFlag(flags, &c.directory)
		return c
	},
}

type check struct {
	directory string
}

func (c *check) check(*console) error { return given("raft_dir", c.directory) }

func (c *check) do(ctx context.Context, d *console) error {
	directory, err := logstore.ClaimReadOnly(c.directory)
	if err != nil {
		return err
	}
	defer func() { _ = directory.Close() }() // it was only read
	report, err := inspect(ctx, d, directory)
	if err != nil {
		return err
	}
	d.report(report)
	for _, path := range directory.Leftovers(d.backends) {
		d.notes.logger().Warn(path + " is not in use: a migration that was stopped has left it; the same command again removes it")
	}
	for _, path := range report.Leftovers {
		d.notes.logger().Warn(path + " is what is left of a snapshot, and not in use: the next start removes it")
	}
	if len(report.Faults) > 0 {
		return faultsOf(report)
	}
	d.say("no damage was found")
	return nil
}

// inspect reads a directory that is claimed.
func inspect(ctx context.Context, d *console, directory *logstore.Directory) (consensus.Report, error) {
	backend, err := d.backends.Named(directory.Backend())
	if err != nil {
		return consensus.Report{}, fmt.Errorf("%s was written by a storage backend that this build does not have: %w", directory.Path(), err)
	}
	return consensus.Inspect(ctx, directory, backend, d.notes.logger())
}

// faultsOf joins all faults, each group with the same help followed by that help.
func faultsOf(r consensus.Report) error {
	var lines []error
	for i, fault := range r.Faults {
		lines = append(lines, fault)
		if fault.Help != "" && (i+1 == len(r.Faults) || r.Faults[i+1].Help != fault.Help) {
			lines = append(lines, errors.New(fault.Help))
		}
	}
	return errors.Join(lines...)
}

// report prints what is in a directory.
func (d *console) report(r consensus.Report) {
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }() // an error of writing to d.out can't be reported
	row := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("directory", "%s", r.Directory)
	row("storage backend", "%s", r.Backend)
	row("raft id", "%s", r.RaftID)
	row("cluster id", "%s", cmp.Or(r.ClusterID, "none"))
	if r.Quarantine != "" {
		row("quarantine", "%s: it neither votes nor counts until a leader has made it a nonvoter and sent it all", r.Quarantine)
	}
	if r.Blank {
		row("raft state", "none")
		return
	}
	row("term", "%d", r.Term)
	row("vote", "%s", voteOf(r))
	row("log", "%s", logOf(r))
	row("reaches", "entry %d of term %d", r.ReachIndex, r.ReachTerm)
	writeSnapshots(row, r.Snapshots)
	writeMembership(row, r)
	row("registry", "revision %d, %d nodes, if all of the log is committed", r.Revision, r.Nodes)
}

func voteOf(r consensus.Report) string {
	if r.VotedFor == "" {
		return "none"
	}
	return fmt.Sprintf("for %s in term %d", r.VotedFor, r.VoteTerm)
}

func logOf(r consensus.Report) string {
	if r.LastIndex == 0 {
		return "empty"
	}
	return fmt.Sprintf("entries %d to %d", r.FirstIndex, r.LastIndex)
}

type rowWriter func(name, format string, args ...any)

func writeSnapshots(row rowWriter, snapshots []consensus.SnapshotReport) {
	name := "snapshots"
	for _, s := range snapshots {
		row(name, "up to entry %d of term %d, %d bytes (%s)", s.Index, s.Term, s.Size, s.ID)
		name = ""
	}
	if len(snapshots) == 0 {
		row(name, "none")
	}
}

func writeMembership(row rowWriter, r consensus.Report) {
	name := "membership"
	for _, instance := range r.Roster.Instances() {
		row(name, "%s=%s %s", instance.ID, instance.RaftAddress, instance.Suffrage)
		name = ""
	}
	switch name {
	case "":
		row("", "as of entry %d", r.RosterIndex)
	default:
		row(name, "none")
	}
}
