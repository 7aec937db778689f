// Nodesmetadata runs an instance of a raft cluster that keeps the set of nodes of a
// distributed cache, or a command for the directory of an instance that does not run. See
// nodesmetadata --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func main() {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") { // no verb: run an instance
		keepMonitorAwake()
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signal.Notify(signals, syscall.SIGHUP)
	}
	ctx, stop := context.WithCancel(context.Background())
	go obey(signals, stop)
	os.Exit(daemon.Run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// obey stops gracefully at the first signal, and exits at once at the second, with the
// status that a shell reports for a death by that signal. Restoring the default action
// instead would lose a second signal that arrives before that. SIGHUP does not count as a
// second signal: a terminal that goes away can send several, and a supervisor may send one
// before its SIGTERM.
func obey(signals <-chan os.Signal, stop func()) {
	asked := 0
	for received := range signals {
		stop()
		if received == syscall.SIGHUP {
			continue
		}
		if asked++; asked == 2 {
			os.Exit(128 + int(received.(syscall.Signal))) // what package signal gives on Unix
		}
	}
}
