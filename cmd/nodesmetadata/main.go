// Nodesmetadata is an instance of a raft cluster that keeps the set of nodes of
// a distributed cache. See nodesmetadata --help.
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
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") { // it is no verb: an instance is to run
		keepMonitorAwake()
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	ctx, stop := context.WithCancel(context.Background())
	go obey(signals, stop)
	os.Exit(daemon.Run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// obey asks for a graceful stop at the first signal, and ends the process at the
// second, with the status that a shell gives to a death by that signal. To let
// the second one kill the process by default would leave a moment, until the
// default is restored, in which it is lost. SIGHUP does not count: a terminal that
// goes away can send several, a supervisor one before its SIGTERM, and nobody has
// lost patience.
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
