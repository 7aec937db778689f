package consensus

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Where the disk refuses until the end it waits for an answer that raft does not give.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nodesmetadata/nodesmetadata/adapters/consensus.(*Node).makeSnapshot.func1"))
}
