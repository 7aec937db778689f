package consensus

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Tests that run beside one another wait for timeouts most of the time. What the command
	// line says comes later, and counts.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	// If the disk refuses writes until the end, an instance waits at its end for an answer
	// that raft never gives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nodesmetadata/nodesmetadata/adapters/consensus.(*Node).makeSnapshot.func1"))
}
