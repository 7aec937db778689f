// Package faults runs real clusters under load, does to them what machines and
// networks do, and checks that what users were promised holds. Each instance has a
// host of its own, a network namespace: that takes root, and where it is not to be
// had the tests of faults are skipped.
//
// A nemesis is one kind of fault: nemeses_test.go reads as the list of them. A
// round is one fault under load, and evidence is all that is known of it when it is
// over. A check is a function of the evidence: the tests of the checks spoil good
// evidence, and each check has to find what is spoilt.
//
// Without flags, one round each of a few nemeses is all there is. `make
// test-faults` goes on for longer, and `make soak` until as much was done as figures
// are promised for. Both show the seed of what they drew: with -seed the same
// nemeses strike the same followers in the same order, but what happens at the same
// time is up to the machine.
package faults

import (
	"flag"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var (
	duration = flag.Duration("faulttime", 0, "how long faults are injected into the cluster of each backend; 0: a few rounds")
	seed     = flag.Uint64("seed", 0, "what the order of the faults and their victims follow from; 0: another one each time")
	backend  = flag.String("backend", "wal", "bolt, badger, wal or all")
	only     = flag.String("only", "", "a regular expression: the nemeses that are let loose")
	rounds   = flag.Int("rounds", 1, "how many rounds each nemesis gets at least, with -faulttime")
)

func TestMain(m *testing.M) { harness.Main(m) }
