// Package offline has the verbs that work on the directory of an instance that
// does not run: to check it, to move it to another storage backend, and to give
// its cluster a new membership after the majority was lost.
//
// It runs no instance, binds no port and asks no other instance. It does not know
// the backends, which it is given, nor how raft lays out a directory.
package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

// verb is a subcommand.
type verb struct {
	name  string // one word or two
	short string // what it does, for the list of verbs
	usage string // what it does, for its own --help
	// define defines the flags, and returns the job that they configure.
	define func(*pflag.FlagSet) job
}

// job is a verb with its flags.
type job interface {
	// check returns all faults of the flags, joined. It touches nothing.
	check(*console) error
	do(context.Context, *console) error
}

var verbs = []verb{checkVerb, migrateVerb, recoverVerb}

// console is what a job uses beside its flags.
type console struct {
	backends logstore.Backends
	out      io.Writer
	notes    *notes // where warnings go
}

func (d *console) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, format+"\n", args...)
}

// Knows reports whether argument is the first word of a verb.
func Knows(argument string) bool {
	return slices.ContainsFunc(verbs, func(v verb) bool { return strings.Fields(v.name)[0] == argument })
}

// Verbs returns a line for each verb, for the help of the program.
func Verbs() string { return verbsWithPrefix("") }

// verbsWithPrefix returns a line for each verb whose name has the prefix.
func verbsWithPrefix(prefix string) string {
	var lines strings.Builder
	for _, v := range verbs {
		if strings.HasPrefix(v.name, prefix) {
			_, _ = fmt.Fprintf(&lines, "  nodesmetadata %-15s  %s\n", v.name, v.short)
		}
	}
	return lines.String()
}

// Run carries out the verb that args begin with, and returns the exit status: 0 for
// success; 1 if there is damage, or the verb failed; 2 if args are wrong and nothing was
// touched.
func Run(ctx context.Context, args []string, backends logstore.Backends, stdout, stderr io.Writer) int {
	chosen, rest, err := find(args)
	switch {
	case err != nil && len(args) == 2 && (args[1] == "--help" || args[1] == "-h"):
		_, _ = fmt.Fprintf(stdout, "Usage:\n%s", verbsWithPrefix(args[0]))
		return config.Done
	case err != nil:
		return config.SayMisused(stderr, "nodesmetadata --help", err)
	}
	flags, work, help := chosen.begin()
	faults := config.ReadFlags(flags, rest)
	if *help {
		_, _ = io.WriteString(stdout, chosen.help())
		return config.Done
	}
	console := &console{backends: backends, out: stdout, notes: &notes{out: stderr}}
	if err := errors.Join(errors.Join(faults...), work.check(console)); err != nil {
		return config.SayMisused(stderr, "nodesmetadata "+chosen.name+" --help", err)
	}
	if err := work.do(ctx, console); err != nil {
		config.Complain(stderr, explained(err))
		return config.Failed
	}
	return config.Done
}

// find returns the verb, and the arguments after it.
func find(args []string) (verb, []string, error) {
	for _, v := range verbs {
		words := strings.Fields(v.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == v.name {
			return v, args[len(words):], nil
		}
	}
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return verb{}, nil, fmt.Errorf("unknown command: %q", args[0]+" "+args[1])
	}
	return verb{}, nil, fmt.Errorf("%q is only a part of a command", args[0])
}

// begin returns the flags of a verb, and the variables that they set: its job, and whether
// help is asked for.
func (v verb) begin() (flags *pflag.FlagSet, work job, help *bool) {
	flags = pflag.NewFlagSet("nodesmetadata", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	work = v.define(flags)
	help = new(bool)
	flags.BoolFuncP("help", "h", "print this and exit", func(string) error {
		*help = true
		return nil
	})
	return flags, work, help
}

func (v verb) help() string {
	flags, _, _ := v.begin()
	synopsis := "  nodesmetadata " + v.name
	flags.VisitAll(func(flag *pflag.Flag) {
		if value, _ := pflag.UnquoteUsage(flag); value != "" {
			synopsis += " --" + flag.Name + " " + value
		}
	})
	return fmt.Sprintf("%s\nUsage:\n%s\n\nFlags:\n%s", v.usage, synopsis, flags.FlagUsagesWrapped(100))
}

// explained adds what an operator can do, if err does not say so.
func explained(err error) error {
	switch {
	case errors.Is(err, logstore.ErrDirectoryInUse):
		return fmt.Errorf("%w: stop it first", err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: %w", err)
	}
	return err
}

// directoryFlag defines the flag that every verb has.
func directoryFlag(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "raft_dir", "", "`directory` of the instance, which must not run")
}

// given returns an error if a required flag is missing.
func given(flag, value string) error {
	if value == "" {
		return fmt.Errorf("--%s must be given", flag)
	}
	return nil
}
