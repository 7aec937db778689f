// Package offline is the verbs that work on the directory of an instance that
// does not run: looking at it, moving it to another storage backend, and giving
// its cluster a new membership after the majority was lost.
//
// It runs no instance, binds no port and asks nobody. It knows neither the
// backends, which it is given, nor how raft keeps what is in a directory.
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

// verb is one thing to do.
type verb struct {
	name  string // one word or two
	short string // what it does, for the list of verbs
	usage string // what it does, for its own --help
	// define makes the flags, and what is to be done once they are read.
	define func(*pflag.FlagSet) job
}

// job is what the flags of a verb say.
type job interface {
	// check gives everything that is wrong with the flags, joined. It touches nothing.
	check(*desk) error
	do(context.Context, *desk) error
}

var verbs = []verb{checkVerb, migrateVerb, recoverVerb}

// desk is what a job works with.
type desk struct {
	backends logstore.Backends
	out      io.Writer
	notes    *notes // where warnings go
}

func (d *desk) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, format+"\n", args...)
}

// Knows says whether a first argument is the beginning of a verb.
func Knows(argument string) bool {
	return slices.ContainsFunc(verbs, func(v verb) bool { return strings.Fields(v.name)[0] == argument })
}

// Verbs is a line for each verb, for the help of the program.
func Verbs() string { return verbsThat("") }

// verbsThat is a line for each verb that begins so.
func verbsThat(begin string) string {
	var lines strings.Builder
	for _, v := range verbs {
		if strings.HasPrefix(v.name, begin) {
			_, _ = fmt.Fprintf(&lines, "  nodesmetadata %-15s  %s\n", v.name, v.short)
		}
	}
	return lines.String()
}

// Run carries out the verb that args begin with, and returns the exit status: 0: done,
// and nothing is wrong; 1: there is damage, or the verb failed; 2: the words are wrong
// and nothing was touched.
func Run(ctx context.Context, args []string, backends logstore.Backends, stdout, stderr io.Writer) int {
	chosen, rest, err := find(args)
	switch {
	case err != nil && len(args) == 2 && (args[1] == "--help" || args[1] == "-h"):
		_, _ = fmt.Fprintf(stdout, "Usage:\n%s", verbsThat(args[0]))
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
	desk := &desk{backends: backends, out: stdout, notes: &notes{out: stderr}}
	if err := errors.Join(errors.Join(faults...), work.check(desk)); err != nil {
		return config.SayMisused(stderr, "nodesmetadata "+chosen.name+" --help", err)
	}
	if err := work.do(ctx, desk); err != nil {
		config.Complain(stderr, explained(err))
		return config.Failed
	}
	return config.Done
}

// find gives the verb, and what follows it.
func find(args []string) (verb, []string, error) {
	for _, v := range verbs {
		words := strings.Fields(v.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == v.name {
			return v, args[len(words):], nil
		}
	}
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return verb{}, nil, fmt.Errorf("unknown verb: %q", args[0]+" "+args[1])
	}
	return verb{}, nil, fmt.Errorf("%q is only the beginning of a verb", args[0])
}

// begin makes the flags of a verb, and what they will say.
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

// explained adds what an operator can do where the error does not say so.
func explained(err error) error {
	switch {
	case errors.Is(err, logstore.ErrDirectoryInUse):
		return fmt.Errorf("%w: stop it first", err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: %w", err)
	}
	return err
}

// directoryFlag is what every verb needs.
func directoryFlag(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "raft_dir", "", "`directory` of the instance, which must not run")
}

// given refuses a flag that must be given and is not.
func given(flag, value string) error {
	if value == "" {
		return fmt.Errorf("--%s must be given", flag)
	}
	return nil
}
