// Package faults runs real clusters under load, injects faults of machines and
// networks, and checks that the promises made to users hold. Each instance runs on
// its own host, a network namespace, which takes root; where that is not available,
// the tests of faults are skipped.
//
// A nemesis is one kind of fault; nemeses_test.go reads as the list of them. A
// round is one fault under load, and evidence is everything known about a round
// after its end. A check is a function of the evidence. The tests of the checks
// spoil good evidence, and each check has to find what is spoilt.
//
// Without flags, only a few nemeses run, one round each. `make test-faults` runs
// for longer, and `make soak` runs until the amounts are reached for which figures
// are promised. Both print the seed of their random choices. With -seed the same
// nemeses strike the same followers in the same order, but the interleaving of
// concurrent events is up to the machine.
package faults

import (
	"flag"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var (
	duration = flag.Duration("faulttime", 0, "how long faults are injected into the cluster of each backend; 0: a few rounds")
	seed     = flag.Uint64("seed", 0, "seed for the order of the faults and their victims; 0: another one each time")
	backend  = flag.String("backend", "wal", "bolt, badger, wal or all")
	only     = flag.String("only", "", "a regular expression that selects nemeses by name")
	rounds   = flag.Int("rounds", 1, "least number of rounds of each nemesis, with -faulttime")
)

func TestMain(m *testing.M) { harness.Main(m) }
