// Nodesmetadata is an instance of a raft cluster that keeps the set of nodes of
// a distributed cache. See nodesmetadata --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, stop := context.WithCancel(context.Background())
	go obey(signals, stop)
	os.Exit(daemon.Run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// obey asks for a graceful stop at the first signal, and ends the process at the
// second, with the status that a shell gives to a death by that signal. To let
// the second one kill the process by default would leave a moment, until the
// default is restored, in which it is lost.
func obey(signals <-chan os.Signal, stop func()) {
	<-signals
	stop()
	second := (<-signals).(syscall.Signal) // what package signal gives on Unix
	os.Exit(128 + int(second))
}
