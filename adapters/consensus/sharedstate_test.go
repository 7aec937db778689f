package consensus

import (
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestTheStateNamesTheLeaderAndWhetherItCaughtUp(t *testing.T) {
	// before leaves its traces in the state that change is given.
	tests := map[string]struct {
		before   func(*localState)
		change   func(*localState)
		leading  bool
		caughtUp bool
	}{
		"nothing is known": {
			change: func(*localState) {}},
		"raft says it leads, but its term is not open": {
			change: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 2 }},
		"raft says it leads, and its term is open": {
			change: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 3 }, leading: true, caughtUp: true},
		"the term is open, but another one leads": {
			change: func(n *localState) { n.Term, n.openTerm = 3, 3 }},
		"the term of another leader is open, and it leads in the next": {
			before: func(n *localState) { n.Term, n.openTerm = 3, 3 },
			change: func(n *localState) { n.Term, n.leads = 4, true }},
		"it leads, and then is closed": {
			before: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 3 },
			change: func(n *localState) { n.Closed = true }, caughtUp: true},
		"it led, and no longer does": {
			before: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 3 },
			change: func(n *localState) { n.leads = false }, caughtUp: true},
		"the goal is not known, whatever is applied": {
			change: func(n *localState) { n.Applied = 100 }},
		"it is one short of the goal": {
			change: func(n *localState) { n.goal, n.Applied = 10, 9 }},
		"it has reached the goal": {
			change: func(n *localState) { n.goal, n.Applied = 10, 10 }, caughtUp: true},
		"it has passed the goal": {
			change: func(n *localState) { n.goal, n.Applied = 10, 11 }, caughtUp: true},
		"the goal is known after it was reached": {
			before: func(n *localState) { n.Applied = 10 },
			change: func(n *localState) { n.goal = 10 }, caughtUp: true},
		"it was caught up, and falls behind a later goal": {
			before: func(n *localState) { n.goal, n.Applied = 10, 10 },
			change: func(n *localState) { n.goal = 20 }, caughtUp: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newSharedState(ports.LocalState{})
			if test.before != nil {
				b.update(test.before)
			}
			b.update(test.change)
			if got := b.read(); got.Leading != test.leading || got.CaughtUp != test.caughtUp {
				t.Errorf("leading %v, caught up %v; want %v, %v", got.Leading, got.CaughtUp, test.leading, test.caughtUp)
			}
		})
	}
}

func TestAnUpdateWakesWaitersAndLeavesEarlierStatesAlone(t *testing.T) {
	b := newSharedState(ports.LocalState{ClusterID: "c"})
	first := b.read()
	select {
	case <-first.later:
		t.Fatal("there is something later before any update")
	default:
	}
	b.update(func(n *localState) { n.Term = 7 })
	receive(t, first.later, "nobody was woken")
	if first.Term != 0 {
		t.Error("a state changed after it was published")
	}
	second := b.read()
	if second.Term != 7 || second.ClusterID != "c" {
		t.Errorf("term %d, cluster %q: what was not changed should stay", second.Term, second.ClusterID)
	}
	select {
	case <-second.later:
		t.Error("the latest state says that there is a later one")
	default:
	}
}

// Two concurrent updaters lose nothing of each other's, and a reader that follows the channels
// misses no end.
func TestManyUpdateAndRead(t *testing.T) {
	const each = 500
	b := newSharedState(ports.LocalState{})
	var updating, reading sync.WaitGroup
	updating.Go(func() {
		for range each {
			b.update(func(n *localState) { n.Applied++ })
		}
	})
	updating.Go(func() {
		for range each {
			b.update(func(n *localState) { n.Term++ })
		}
	})
	for range 4 {
		reading.Go(func() {
			for seen := b.read(); seen.Applied < each || seen.Term < each; {
				<-seen.later
				next := b.read()
				if next.Applied < seen.Applied || next.Term < seen.Term || next == seen {
					t.Errorf("from (%d, %d) back to (%d, %d)", seen.Applied, seen.Term, next.Applied, next.Term)
					return
				}
				seen = next
			}
		})
	}
	updating.Wait()
	reading.Wait()
}
