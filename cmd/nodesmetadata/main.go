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
	ctx, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	// The first signal asks for a graceful stop. From then on signals do what
	// they do by default: the second one ends the process at once.
	context.AfterFunc(ctx, forget)
	os.Exit(daemon.Run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
