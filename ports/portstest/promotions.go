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

// RunPromotions checks the contract of ports.Promotions. Each test opens a subject of its own,
// which open closes with tb.Cleanup.
func RunPromotions(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"a new cluster has no promotions":                 func(t *testing.T, s Subject) { mustHavePromotions(t, s.Leader) },
		"a promotion is in the state when it is answered": promotionIsInStateWhenAnswered,
		"promotions are in ascending order":               promotionsAreSorted,
		"a state does not change":                         stateKeepsItsPromotions,
		"concurrent promotions are all made":              manyAddPromotions,
		"promotions are no nodes and make no revision":    promotionsAreNoNodes,
		"a context that has ended changes nothing":        endedContextChangesNoPromotion,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("a follower", func(t *testing.T) {
		if s := open(t); s.Follower != nil {
			t.Run("is staged while it has a promotion and is no voter", func(t *testing.T) { followerIsStaged(t, open(t)) })
			t.Run("adds and removes no promotion", func(t *testing.T) { followerChangesNoPromotion(t, s) })
			t.Run("keeps the promotions when it becomes the leader", func(t *testing.T) { followerKeepsPromotions(t, s) })
		}
	})
}

func mustAddPromotions(t testing.TB, p Ports, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := p.Promotions.AddPromotion(within(t), id); err != nil {
			t.Fatalf("AddPromotion(%s): %v", id, err)
		}
	}
}

func mustRemovePromotions(t testing.TB, p Ports, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := p.Promotions.RemovePromotion(within(t), id); err != nil {
			t.Fatalf("RemovePromotion(%s): %v", id, err)
		}
	}
}

func mustHavePromotions(t testing.TB, p Ports, want ...string) {
	t.Helper()
	if state, _ := p.Local.State(); !slices.Equal(state.Promotions, want) {
		t.Fatalf("promotions = %q, want %q", state.Promotions, want)
	}
}

func promotionIsInStateWhenAnswered(t *testing.T, s Subject) {
	_, later := s.Leader.Local.State()
	mustAddPromotions(t, s.Leader, "a")
	mustHavePromotions(t, s.Leader, "a")
	select {
	case <-later:
	default:
		t.Error("the channel of the state before is open")
	}
	mustAddPromotions(t, s.Leader, "a") // AddPromotion may be called again
	mustHavePromotions(t, s.Leader, "a")
	mustRemovePromotions(t, s.Leader, "stranger")
	mustHavePromotions(t, s.Leader, "a")
	mustRemovePromotions(t, s.Leader, "a")
	mustHavePromotions(t, s.Leader)
	mustRemovePromotions(t, s.Leader, "a")
	mustHavePromotions(t, s.Leader)
}

func promotionsAreSorted(t *testing.T, s Subject) {
	mustAddPromotions(t, s.Leader, "b", "c", "a", "a1")
	mustHavePromotions(t, s.Leader, "a", "a1", "b", "c")
	mustRemovePromotions(t, s.Leader, "b")
	mustHavePromotions(t, s.Leader, "a", "a1", "c")
}

func stateKeepsItsPromotions(t *testing.T, s Subject) {
	mustAddPromotions(t, s.Leader, "b", "d")
	before, _ := s.Leader.Local.State()
	mustAddPromotions(t, s.Leader, "a", "c")
	mustRemovePromotions(t, s.Leader, "b")
	mustEqual(t, "the earlier state", before.Promotions, []string{"b", "d"})
}

func manyAddPromotions(t *testing.T, s Subject) {
	const many = 16
	ctx := within(t)
	var all []string
	var wanting sync.WaitGroup
	for i := range many {
		id := fmt.Sprintf("i%02d", i)
		all = append(all, id)
		wanting.Go(func() {
			if err := s.Leader.Promotions.AddPromotion(ctx, id); err != nil {
				t.Errorf("AddPromotion(%s): %v", id, err)
			}
		})
	}
	wanting.Wait()
	mustHavePromotions(t, s.Leader, all...)
}

func promotionsAreNoNodes(t *testing.T, s Subject) {
	mustPropose(t, s.Leader.Registry, register("a", 1))
	before := show(mustRead(t, s.Leader.Registry))
	mustAddPromotions(t, s.Leader, "a", "b")
	mustRemovePromotions(t, s.Leader, "a")
	mustEqual(t, "the registry", show(mustRead(t, s.Leader.Registry)), before)
}

func endedContextChangesNoPromotion(t *testing.T, s Subject) {
	mustAddPromotions(t, s.Leader, "a")
	for name, ask := range map[string]func(context.Context, string) error{
		"AddPromotion":    s.Leader.Promotions.AddPromotion,
		"RemovePromotion": s.Leader.Promotions.RemovePromotion,
	} {
		for _, id := range []string{"a", "b"} {
			if err := ask(ended(t), id); !errors.Is(err, context.Canceled) || errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("%s(%s) = %v, want %v", name, id, err, context.Canceled)
			}
		}
	}
	mustHavePromotions(t, s.Leader, "a")
}

// followerIsStaged: only a nonvoter that is to become a voter is staged.
func followerIsStaged(t *testing.T, s Subject) {
	roster := mustRoster(t, s.Leader.Membership)
	self, _ := roster.Find(s.Follower.ID)
	staged := func(state ports.LocalState) bool { return state.Staged }
	settled := func(state ports.LocalState) bool { return !state.Staged }
	mustAddPromotions(t, s.Leader, s.Follower.ID)
	if state, _ := s.Follower.Local.State(); state.Staged {
		t.Error("Staged = true for a voter")
	}
	self.Suffrage = domain.Nonvoter
	mustAdd(t, s.Leader.Membership, self)
	state := await(t, s.Follower.Local, "the nonvoter is staged", staged)
	if reasons := state.Unready(""); len(reasons) == 0 {
		t.Error("a staged follower is ready")
	}
	if state, _ := s.Leader.Local.State(); state.Staged {
		t.Error("Staged = true for the leader")
	}
	self.Suffrage = domain.Voter
	mustAdd(t, s.Leader.Membership, self)
	await(t, s.Follower.Local, "the voter is no longer staged", settled)
	mustRemovePromotions(t, s.Leader, s.Follower.ID)
	self.Suffrage = domain.Nonvoter
	mustAdd(t, s.Leader.Membership, self)
	await(t, s.Follower.Local, "the follower is a nonvoter that is not staged", func(state ports.LocalState) bool {
		now, _ := state.Roster.Find(s.Follower.ID)
		return now.Suffrage == domain.Nonvoter && len(state.Promotions) == 0 && !state.Staged
	})
}

func followerChangesNoPromotion(t *testing.T, s Subject) {
	mustAddPromotions(t, s.Leader, "a")
	if err := s.Follower.Promotions.AddPromotion(within(t), "b"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("AddPromotion on a follower = %v, want %v", err, ports.ErrNotLeader)
	}
	if err := s.Follower.Promotions.RemovePromotion(within(t), "a"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("RemovePromotion on a follower = %v, want %v", err, ports.ErrNotLeader)
	}
	mustHavePromotions(t, s.Leader, "a")
}

func followerKeepsPromotions(t *testing.T, s Subject) {
	mustRemovePromotions(t, s.Leader, "a")
	mustAddPromotions(t, s.Leader, "d", "c")
	mustRemovePromotions(t, s.Leader, "d")
	if err := s.Leader.Membership.Add(within(t), domain.Instance{ID: "c", RaftAddress: "127.0.0.1:1", Suffrage: domain.Nonvoter}); err != nil {
		t.Fatalf("add: %v", err)
	}
	// The promotions are before the nonvoter in the log, so a leader that knows the
	// nonvoter knows the promotions.
	if err := s.Leader.Leadership.HandOver(within(t), s.Follower.ID); err != nil {
		t.Fatalf("hand over: %v", err)
	}
	await(t, s.Follower.Local, "the follower leads", leading)
	mustHavePromotions(t, *s.Follower, "c")
	mustRemovePromotions(t, *s.Follower, "c")
	mustHavePromotions(t, *s.Follower)
}
