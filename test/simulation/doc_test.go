// Package simulation runs short lives of small clusters in one process, thousands
// of them: real consensus.Nodes, whose network and disks are simulated, and whose
// time is that of a testing/synctest bubble. A seed decides how many instances there
// are, what clients ask, and which faults come when: partitions of all kinds,
// late messages, broken connections, crashes (also in the middle of a write), slow,
// hanging and failing disks, transfers of leadership, and changes of the membership.
//
// What clients, subscribers and those who watch the instances saw must fit into one
// order: see checks_test.go. Disks and clients that are broken on purpose show that
// the checks find what they should.
//
// A seed that fails is printed, with all that happened. It replays
//
//	go test ./test/simulation -run TestHistories -seed=N
//
// what was decided by the seed: all that is simulated, and raft's own timeouts. Every
// message and every write takes another time, so that hardly anything happens at the
// same moment. Where it does, the Go runtime draws lots (select, the order of timers,
// the order of maps), and a history takes another turn: the seed is therefore tried
// again, up to a hundred times, until it fails.
package simulation

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// inTheGate is what takes some seconds.
func inTheGate() int {
	if harness.Race {
		return 40
	}
	return 300
}

var (
	histories = flag.Int("histories", inTheGate(), "how many histories are run")
	first     = flag.Uint64("first", 1, "seed of the first one; each has the next seed")
	seed      = flag.Uint64("seed", 0, "run only this one, until it fails or a hundred times")
	job       = flag.String("job", "", "what a worker of this test is told to do; not for people")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *job != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}
