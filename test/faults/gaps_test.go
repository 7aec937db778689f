package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// gaps are the longest times without an acknowledged write of all rounds, by
// nemesis.
type gaps struct {
	names []string // in the order of their first rounds
	of    map[string][]time.Duration
	total totals
}

// totals are the sums over all rounds.
type totals struct{ rounds, operations, writes, deliveries int }

func (g *gaps) add(e *evidence) {
	if g.of == nil {
		g.of = map[string][]time.Duration{}
	}
	if len(g.of[e.nemesis]) == 0 {
		g.names = append(g.names, e.nemesis)
	}
	g.of[e.nemesis] = append(g.of[e.nemesis], e.gap.length())
	g.total.rounds++
	g.total.operations += len(e.operations) + len(e.writes)
	g.total.writes += len(e.writes)
	for _, stream := range e.streams {
		g.total.deliveries += len(stream)
	}
}

// print logs the table. With few rounds the 99th percentile equals the longest.
func (g *gaps) print(t testing.TB) {
	if g.total.rounds == 0 {
		return
	}
	var table strings.Builder
	fmt.Fprintf(&table, "longest time without an acknowledged write\n%-42s %6s %8s %8s %8s\n", "", "rounds", "median", "p99", "longest")
	for _, name := range g.names {
		at := func(percent int) time.Duration { return g.percentile(name, percent).Round(time.Millisecond) }
		fmt.Fprintf(&table, "%-42s %6d %8v %8v %8v\n", name, len(g.of[name]), at(50), at(99), at(100))
	}
	fmt.Fprintf(&table, "%d faults under %d operations, of which %d are writes that were acknowledged; %d changes came by streams",
		g.total.rounds, g.total.operations, g.total.writes, g.total.deliveries)
	t.Log(table.String())
}

// percentile returns a percentile of the gaps of a nemesis; 100 gives the longest.
func (g *gaps) percentile(name string, percent int) time.Duration {
	all := slices.Sorted(slices.Values(g.of[name]))
	return all[(len(all)*percent+99)/100-1]
}
