package offline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

var migrateVerb = verb{
	name:  "storage migrate",
	short: "move the directory of an instance to another storage backend",
	usage: `nodesmetadata storage migrate moves the raft log, the term and the vote of an
instance to another storage backend. Snapshots stay as they are.

The new log is written next to the old one, read back and compared. Then the
directory is switched over, and only after that is the old log removed. There has
to be disk space for a second log. If the command is interrupted, nothing is lost:
run it again to finish. Run it as the user that runs the instance.
`,
	define: func(flags *pflag.FlagSet) job {
		m := &migrate{}
		flags.StringVar(&m.from, "from", "", "storage `backend` that the directory uses")
		flags.StringVar(&m.to, "to", "", "storage `backend` that the directory is to use")
		directoryFlag(flags, &m.directory)
		return m
	},
}

type migrate struct {
	directory, from, to string
}

func (m *migrate) check(d *console) error {
	faults := []error{d.canMove("from", m.from), d.canMove("to", m.to), given("raft_dir", m.directory)}
	if m.from != "" && m.from == m.to {
		faults = append(faults, fmt.Errorf("--from, --to: both are %q", m.to))
	}
	return errors.Join(faults...)
}

// canMove returns an error unless the flag names a backend that a log can be moved from
// and to.
func (d *console) canMove(flag, name string) error {
	if err := given(flag, name); err != nil {
		return err
	}
	switch backend, err := d.backends.Named(name); {
	case err != nil:
		lasting := slices.DeleteFunc(slices.Clone(d.backends), func(b logstore.Backend) bool { return b.Volatile })
		_, err := lasting.Named(name)
		return fmt.Errorf("--%s: %w", flag, err)
	case backend.Volatile:
		return fmt.Errorf("--%s: %q keeps nothing on disk that could be moved: an instance changes from it, or to it, with an empty directory, and joins the cluster anew", flag, name)
	}
	return nil
}

func (m *migrate) do(ctx context.Context, d *console) error {
	directory, err := logstore.ClaimExisting(m.directory)
	if err != nil {
		return err
	}
	defer func() { _ = directory.Close() }() // everything written is durable already
	if directory.Backend() == m.from {
		// A copy of a damaged log would look sound.
		report, err := inspect(ctx, d, directory)
		if err != nil {
			return err
		}
		if !report.Sound() {
			return errors.Join(faultsOf(report), errors.New("nothing was changed: only a directory that is sound can be moved"))
		}
	}
	from, _ := d.backends.Named(m.from) // both were checked
	to, _ := d.backends.Named(m.to)
	err = directory.Migrate(ctx, logstore.Migration{
		From: from, To: to, Logger: d.notes.logger(),
		Watch: func(step logstore.Step, what string) {
			if step != logstore.StepCopied { // one for every chunk
				d.say("%s", what)
			}
		},
	})
	if err != nil {
		return err
	}
	d.say("done: start the instance with --storage_backend=%s", m.to)
	return nil
}
