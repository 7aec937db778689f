package consensus

import (
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestTheStateNamesTheLeaderAndWhetherItCaughtUp(t *testing.T) {
	// before is applied to the state first, and change then.
	tests := map[string]struct {
		before   func(*localState)
		change   func(*localState)
		leading  bool
		caughtUp bool
	}{
		"nothing is known": {
			change: func(*localState) {}},
		"raft leads, but its term is not open": {
			change: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 2 }},
		"raft leads, and its term is open": {
			change: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 3 }, leading: true, caughtUp: true},
		"the term is open, but another instance leads": {
			change: func(n *localState) { n.Term, n.openTerm = 3, 3 }},
		"the term of another leader was open, and raft leads in the next": {
			before: func(n *localState) { n.Term, n.openTerm = 3, 3 },
			change: func(n *localState) { n.Term, n.leads = 4, true }},
		"the leader is closed": {
			before: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 3 },
			change: func(n *localState) { n.Closed = true }, caughtUp: true},
		"the leader is deposed": {
			before: func(n *localState) { n.Term, n.leads, n.openTerm = 3, true, 3 },
			change: func(n *localState) { n.leads = false }, caughtUp: true},
		"the goal is not known, and entries are applied": {
			change: func(n *localState) { n.Applied = 100 }},
		"one entry short of the goal": {
			change: func(n *localState) { n.goal, n.Applied = 10, 9 }},
		"the goal is reached": {
			change: func(n *localState) { n.goal, n.Applied = 10, 10 }, caughtUp: true},
		"the goal is passed": {
			change: func(n *localState) { n.goal, n.Applied = 10, 11 }, caughtUp: true},
		"the goal is known after it was reached": {
			before: func(n *localState) { n.Applied = 10 },
			change: func(n *localState) { n.goal = 10 }, caughtUp: true},
		"caught up, and then behind a later goal": {
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
				t.Errorf("leading = %v, caught up = %v, want %v and %v", got.Leading, got.CaughtUp, test.leading, test.caughtUp)
			}
		})
	}
}

func TestAnUpdateWakesWaitersAndLeavesEarlierStatesAlone(t *testing.T) {
	b := newSharedState(ports.LocalState{ClusterID: "c"})
	first := b.read()
	select {
	case <-first.later:
		t.Fatal("the initial state is reported as outdated before any update")
	default:
	}
	b.update(func(n *localState) { n.Term = 7 })
	receive(t, first.later, "an update did not wake a waiter")
	if first.Term != 0 {
		t.Error("a published state changed")
	}
	second := b.read()
	if second.Term != 7 || second.ClusterID != "c" {
		t.Errorf("state = term %d, cluster %q, want 7 and c: what was not changed must stay", second.Term, second.ClusterID)
	}
	select {
	case <-second.later:
		t.Error("the latest state is reported as outdated")
	default:
	}
}

// Of two concurrent updaters neither loses updates of the other, and a reader that follows
// the channels sees the last state.
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
					t.Errorf("state went from (%d, %d) back to (%d, %d)", seen.Applied, seen.Term, next.Applied, next.Term)
					return
				}
				seen = next
			}
		})
	}
	updating.Wait()
	reading.Wait()
}
