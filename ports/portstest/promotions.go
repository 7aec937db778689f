package portstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RunPromotions examines what ports.Promotions promises. Each test opens a
// subject of its own, which open closes with tb.Cleanup.
func RunPromotions(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"nobody is wanted in the beginning":             func(t *testing.T, s Subject) { mustBeWanted(t, s.Leader) },
		"who is wanted is there when that is answered":  wantedWhenAnswered,
		"they are in ascending order":                   wantedInOrder,
		"a state stays as it was":                       wantedStay,
		"many want at once":                             manyWant,
		"they are no nodes, and make no revision":       wantedAreNoNodes,
		"with a context that had ended nothing happens": endedContextWantsNobody,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("a follower", func(t *testing.T) {
		if s := open(t); s.Follower != nil {
			t.Run("is staged while it is wanted and no voter", func(t *testing.T) { followerIsStaged(t, open(t)) })
			t.Run("wants nobody", func(t *testing.T) { followerWantsNobody(t, s) })
			t.Run("knows who is wanted, and goes on with that when it leads", func(t *testing.T) { followerKnowsWanted(t, s) })
		}
	})
}

func mustWant(t testing.TB, p Ports, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := p.Promotions.AddPromotion(within(t), id); err != nil {
			t.Fatalf("want %s: %v", id, err)
		}
	}
}

func mustSettle(t testing.TB, p Ports, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := p.Promotions.RemovePromotion(within(t), id); err != nil {
			t.Fatalf("settle %s: %v", id, err)
		}
	}
}

func mustBeWanted(t testing.TB, p Ports, want ...string) {
	t.Helper()
	if state, _ := p.Local.State(); !slices.Equal(state.Promotions, want) {
		t.Fatalf("wanted are %q, not %q", state.Promotions, want)
	}
}

func wantedWhenAnswered(t *testing.T, s Subject) {
	_, later := s.Leader.Local.State()
	mustWant(t, s.Leader, "a")
	mustBeWanted(t, s.Leader, "a")
	select {
	case <-later:
	default:
		t.Error("who waits is not woken")
	}
	mustWant(t, s.Leader, "a") // it may be called again
	mustBeWanted(t, s.Leader, "a")
	mustSettle(t, s.Leader, "stranger")
	mustBeWanted(t, s.Leader, "a")
	mustSettle(t, s.Leader, "a")
	mustBeWanted(t, s.Leader)
	mustSettle(t, s.Leader, "a")
	mustBeWanted(t, s.Leader)
}

func wantedInOrder(t *testing.T, s Subject) {
	mustWant(t, s.Leader, "b", "c", "a", "a1")
	mustBeWanted(t, s.Leader, "a", "a1", "b", "c")
	mustSettle(t, s.Leader, "b")
	mustBeWanted(t, s.Leader, "a", "a1", "c")
}

func wantedStay(t *testing.T, s Subject) {
	mustWant(t, s.Leader, "b", "d")
	before, _ := s.Leader.Local.State()
	mustWant(t, s.Leader, "a", "c")
	mustSettle(t, s.Leader, "b")
	mustEqual(t, "the earlier state", before.Promotions, []string{"b", "d"})
}

func manyWant(t *testing.T, s Subject) {
	const many = 16
	ctx := within(t)
	var all []string
	var wanting sync.WaitGroup
	for i := range many {
		id := fmt.Sprintf("i%02d", i)
		all = append(all, id)
		wanting.Go(func() {
			if err := s.Leader.Promotions.AddPromotion(ctx, id); err != nil {
				t.Errorf("want %s: %v", id, err)
			}
		})
	}
	wanting.Wait()
	mustBeWanted(t, s.Leader, all...)
}

func wantedAreNoNodes(t *testing.T, s Subject) {
	mustPropose(t, s.Leader.Registry, register("a", 1))
	before := show(mustRead(t, s.Leader.Registry))
	mustWant(t, s.Leader, "a", "b")
	mustSettle(t, s.Leader, "a")
	mustEqual(t, "the registry", show(mustRead(t, s.Leader.Registry)), before)
}

func endedContextWantsNobody(t *testing.T, s Subject) {
	mustWant(t, s.Leader, "a")
	for name, ask := range map[string]func(context.Context, string) error{
		"want":   s.Leader.Promotions.AddPromotion,
		"settle": s.Leader.Promotions.RemovePromotion,
	} {
		for _, id := range []string{"a", "b"} {
			if err := ask(ended(t), id); !errors.Is(err, context.Canceled) || errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("%s %s: %v", name, id, err)
			}
		}
	}
	mustBeWanted(t, s.Leader, "a")
}

// followerIsStaged: a nonvoter that is to be a voter says so, and nobody else does.
func followerIsStaged(t *testing.T, s Subject) {
	roster := mustRoster(t, s.Leader.Membership)
	self, _ := roster.Find(s.Follower.ID)
	staged := func(state ports.LocalState) bool { return state.Staged }
	settled := func(state ports.LocalState) bool { return !state.Staged }
	mustWant(t, s.Leader, s.Follower.ID)
	if state, _ := s.Follower.Local.State(); state.Staged {
		t.Error("a voter is staged")
	}
	self.Suffrage = domain.Nonvoter
	mustAdd(t, s.Leader.Membership, self)
	state := await(t, s.Follower.Local, "the nonvoter is staged", staged)
	if reasons := state.Unready(""); len(reasons) == 0 {
		t.Error("it is ready")
	}
	if state, _ := s.Leader.Local.State(); state.Staged {
		t.Error("the leader is staged")
	}
	self.Suffrage = domain.Voter
	mustAdd(t, s.Leader.Membership, self)
	await(t, s.Follower.Local, "the voter is staged no longer", settled)
	mustSettle(t, s.Leader, s.Follower.ID)
	self.Suffrage = domain.Nonvoter
	mustAdd(t, s.Leader.Membership, self)
	await(t, s.Follower.Local, "it is a nonvoter by somebody's wish", func(state ports.LocalState) bool {
		now, _ := state.Roster.Find(s.Follower.ID)
		return now.Suffrage == domain.Nonvoter && len(state.Promotions) == 0 && !state.Staged
	})
}

func followerWantsNobody(t *testing.T, s Subject) {
	mustWant(t, s.Leader, "a")
	if err := s.Follower.Promotions.AddPromotion(within(t), "b"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("want: %v", err)
	}
	if err := s.Follower.Promotions.RemovePromotion(within(t), "a"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("settle: %v", err)
	}
	mustBeWanted(t, s.Leader, "a")
}

func followerKnowsWanted(t *testing.T, s Subject) {
	mustSettle(t, s.Leader, "a")
	mustWant(t, s.Leader, "d", "c")
	mustSettle(t, s.Leader, "d")
	if err := s.Leader.Membership.Add(within(t), domain.Instance{ID: "c", RaftAddress: "127.0.0.1:1", Suffrage: domain.Nonvoter}); err != nil {
		t.Fatalf("add: %v", err)
	}
	// Promotions is older in the log than the nonvoter, so a leader that has the nonvoter
	// has the promotion.
	if err := s.Leader.Leadership.HandOver(within(t), s.Follower.ID); err != nil {
		t.Fatalf("hand over: %v", err)
	}
	await(t, s.Follower.Local, "it leads", leading)
	mustBeWanted(t, *s.Follower, "c")
	mustSettle(t, *s.Follower, "c")
	mustBeWanted(t, *s.Follower)
}
