// Package simulation runs short lives of small clusters in one process, thousands
// of them: real consensus.Nodes on a simulated network and simulated disks, in the
// fake time of a testing/synctest bubble. A seed decides the number of instances,
// what clients ask, and which faults happen when: partitions of all kinds, late
// messages, broken connections, crashes (also in the middle of a write), slow,
// hanging and failing disks, transfers of leadership, and changes of the
// membership.
//
// What clients, subscribers and observers of the instances saw must fit into one
// order: see checks_test.go. Disks and clients that are broken on purpose show that
// the checks find what they should.
//
// A seed that fails is printed with a trace of everything that happened. To replay
// it:
//
//	go test ./test/simulation -run TestHistories -seed=N
//
// A replay repeats everything that the seed decides: the simulation, and raft's own
// timeouts. Every message and every write takes a different time, so hardly any two
// events coincide. When events do coincide, the Go runtime chooses at random
// (select, timers, maps), and the history may differ. A seed is therefore tried
// again, up to a hundred times, until it fails.
package simulation

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// defaultHistories returns the default number of histories, which takes some seconds.
func defaultHistories() int {
	if harness.Race {
		return 40
	}
	return 300
}

var (
	histories = flag.Int("histories", defaultHistories(), "how many histories are run")
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
