// Command bench measures a cluster of nodesmetadata, a cluster of etcd if it is
// installed, and a bare net/http server, in turns on the same machine.
//
// A whole run without an error, with etcd, is written to docs/performance.md and
// the README.
//
//	make bench
//	make bench ROWS='^write' BENCH_ROUNDS=5 BENCH_TIME=5s
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills the process
	if err := bench(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, args []string, out io.Writer) error {
	s := published
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&s.rounds, "rounds", s.rounds, "how often each row is measured")
	flags.DurationVar(&s.time, "time", s.time, "how long each measurement takes")
	rows := flags.String("rows", "", "regular expression of the rows to measure; empty for all")
	backend := flags.String("backend", "", "storage backend; empty for the program's default")
	repository := flags.String("repository", "..", "where the program is built from")
	if err := flags.Parse(args); err != nil {
		return err
	}
	only, err := regexp.Compile(*rows)
	if err != nil {
		return err
	}
	directory, err := os.MkdirTemp("", "bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	kinds, err := build(ctx, *repository, directory, *backend)
	if err != nil {
		return err
	}
	titles := columns{{"nodesmetadata", "nodesmetadata"}, {"bare", "bare net/http"}}
	peer, missing := exec.LookPath("etcd")
	if missing == nil {
		etcd := servers.Etcd{Path: peer}
		kinds = slices.Insert(kinds, 1, servers.Kind(etcd))
		titles = slices.Insert(titles, 1, column{"etcd", "etcd " + etcd.Version()})
	}
	how, err := machine(*repository, directory, s)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, how)
	r := &runner{scale: s, kinds: kinds, only: only, directory: directory, progress: out}
	results, err := r.run(ctx, table(s))
	if err != nil {
		return err
	}
	if reason := onlyPrinted(s, *rows, *backend, missing); reason != "" {
		fmt.Fprintf(out, "The documents stay as they are: %s.\n", reason)
		return nil
	}
	return publish(*repository, how, results, titles)
}

// onlyPrinted says why results are not written to the documents, which show only
// the whole table measured with default settings; "" if they are.
func onlyPrinted(s scale, rows, backend string, noPeer error) string {
	switch {
	case rows != "":
		return "not all rows were measured"
	case backend != "":
		return "a storage backend was chosen"
	case s.rounds != published.rounds || s.time != published.time:
		return fmt.Sprintf("they show %d rounds of %v", published.rounds, published.time)
	case noPeer != nil:
		return fmt.Sprintf("there is no etcd (%v)", noPeer)
	}
	return ""
}

// build builds nodesmetadata and the bare server from the work tree.
func build(ctx context.Context, repository, directory, backend string) ([]servers.Kind, error) {
	program := filepath.Join(directory, "nodesmetadata")
	bare := filepath.Join(directory, "bare")
	for _, b := range []struct{ in, output, pkg string }{
		{repository, program, "./cmd/nodesmetadata"},
		{filepath.Join(repository, "bench"), bare, "./bare"},
	} {
		command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", b.output, b.pkg)
		command.Dir = b.in
		if output, err := command.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build %s: %w\n%s", b.pkg, err, output)
		}
	}
	return []servers.Kind{servers.Nodesmetadata{Path: program, Backend: backend}, servers.Bare{Path: bare}}, nil
}
