package portstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RunRestorer checks the contract of ports.Restorer. Each test opens a subject of its own,
// which open closes with tb.Cleanup.
func RunRestorer(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"a replacement is made and reported":                 replacementIsReported,
		"a replacement without nodes empties the registry":   emptyReplacementEmpties,
		"a replacement is refused whole":                     replacementIsRefused,
		"a replacement is seen whole or not at all":          replacementIsSeenWhole,
		"concurrent replacements are each whole or not made": concurrentReplacementsAreWhole,
		"a context that has ended changes nothing":           endedContextReplacesNothing,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("a follower", func(t *testing.T) {
		if s := open(t); s.Follower != nil {
			t.Run("replaces nothing", func(t *testing.T) { followerReplacesNothing(t, s) })
			t.Run("has the replacement of the leader", func(t *testing.T) { followerHasReplacement(t, s) })
		}
	})
}

// replacement returns a replacement with this many nodes, all of the same weight.
func replacement(t testing.TB, nodes, weight int) *domain.Replacement {
	t.Helper()
	with := domain.NewReplacement()
	for i := range nodes {
		n := cacheNode(fmt.Sprintf("node%03d", i), weight)
		n.Pool, n.Slot = "p", i
		if err := with.Add(&n); err != nil {
			t.Fatal(err)
		}
	}
	return with
}

func mustReplace(t testing.TB, p Ports, with *domain.Replacement) domain.Replaced {
	t.Helper()
	replaced, err := p.Restorer.Replace(within(t), with, nil)
	if err != nil {
		t.Fatalf("replace: %v", err)
	}
	return replaced
}

func mustHold(t testing.TB, view domain.View, with *domain.Replacement) {
	t.Helper()
	got := show(view).Nodes
	want := make([]domain.CacheNode, len(with.Nodes()))
	for i, n := range with.Nodes() {
		want[i] = *n
	}
	for i := range got {
		got[i].CreatedRevision, got[i].Revision = 0, 0
	}
	mustEqual(t, "the registry", append([]domain.CacheNode{}, got...), want)
}

func replacementIsReported(t *testing.T, s Subject) {
	mustPropose(t, s.Leader.Registry, register("a", 1))
	kept := cacheNode("node001", 7)
	kept.Pool, kept.Slot = "p", 1
	before := mustRead(t, s.Leader.Registry)

	first := mustReplace(t, s.Leader, replacement(t, 5, 7))
	mustEqual(t, "the result of the first replacement", first, domain.Replaced{Revision: before.Revision() + 6, Added: 5, Removed: 1})
	mustHold(t, mustRead(t, s.Leader.Registry), replacement(t, 5, 7))

	changed := domain.NewReplacement()
	heavier := cacheNode("node000", 8)
	heavier.Pool = "p"
	for _, n := range []*domain.CacheNode{&heavier, &kept} {
		if err := changed.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	expected := first.Revision
	second, err := s.Leader.Restorer.Replace(within(t), changed, &expected)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the result of the second replacement", second, domain.Replaced{Revision: first.Revision + 4, Updated: 1, Removed: 3, Unchanged: 1})
	view := mustRead(t, s.Leader.Registry)
	mustHold(t, view, changed)
	history, reaches := view.Since(before.Revision())
	if !reaches || len(history) != 10 {
		t.Fatalf("changes in the history = %d, want 10", len(history))
	}
	for i, change := range history {
		if change.Reason != domain.ByRestore || change.Revision != before.Revision()+domain.Revision(i)+1 {
			t.Errorf("change = %+v, want revision %d by a restore", change, before.Revision()+domain.Revision(i)+1)
		}
	}
	mustEqual(t, "the result of the second replacement again", mustReplace(t, s.Leader, changed), domain.Replaced{Revision: second.Revision, Unchanged: 2})
}

func emptyReplacementEmpties(t *testing.T, s Subject) {
	before := mustPropose(t, s.Leader.Registry, register("a", 1)).Revision
	mustEqual(t, "the result of an empty replacement", mustReplace(t, s.Leader, domain.NewReplacement()), domain.Replaced{Revision: before + 1, Removed: 1})
	mustEqual(t, "the result of a second empty replacement", mustReplace(t, s.Leader, domain.NewReplacement()), domain.Replaced{Revision: before + 1})
	mustHold(t, mustRead(t, s.Leader.Registry), domain.NewReplacement())
}

func replacementIsRefused(t *testing.T, s Subject) {
	before := mustPropose(t, s.Leader.Registry, register("a", 1)).Revision
	was := show(mustRead(t, s.Leader.Registry))
	expected := before + 1
	_, err := s.Leader.Restorer.Replace(within(t), replacement(t, 5, 7), &expected)
	var refusal *domain.Refusal
	if !errors.Is(err, domain.ErrConditionFailed) || !errors.As(err, &refusal) || refusal.Revision != before {
		t.Errorf("error = %v, want the refusal %v at revision %d", err, domain.ErrConditionFailed, before)
	}
	mustEqual(t, "the registry", show(mustRead(t, s.Leader.Registry)), was)
	// The next replacement contains nothing of the refused one.
	mustReplace(t, s.Leader, replacement(t, 3, 1))
	mustHold(t, mustRead(t, s.Leader.Registry), replacement(t, 3, 1))
}

// replacementIsSeenWhole replaces all nodes by nodes of another weight, so that a view of
// half a replacement shows two weights.
func replacementIsSeenWhole(t *testing.T, s Subject) {
	const size = 40
	mustReplace(t, s.Leader, replacement(t, size, 1))
	if s.Follower != nil {
		mustReadHere(t, s.Follower.Registry)
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watch := func(who string, local ports.Local) {
		watching.Go(func() {
			for {
				state, later := local.State()
				weights, nodes := map[int]bool{}, 0
				for n := range state.View.Nodes() {
					weights[n.Weight] = true
					nodes++
				}
				if len(weights) != 1 || nodes != size {
					t.Errorf("%s shows %d nodes of %d weights, want %d of one", who, nodes, len(weights), size)
				}
				select {
				case <-later:
				case <-done:
					return
				}
			}
		})
	}
	watch("the leader", s.Leader.Local)
	if s.Follower != nil {
		watch("the follower", s.Follower.Local)
	}
	for weight := range 10 {
		mustReplace(t, s.Leader, replacement(t, size, weight+2))
	}
	close(done)
	watching.Wait()
}

func concurrentReplacementsAreWhole(t *testing.T, s Subject) {
	const rivals = 4
	ctx := within(t)
	errs := make([]error, rivals)
	var all sync.WaitGroup
	for i := range rivals {
		with := replacement(t, 20+i, i+1)
		all.Go(func() { _, errs[i] = s.Leader.Restorer.Replace(ctx, with, nil) })
	}
	all.Wait()
	carriedOut := false
	for i, err := range errs {
		carriedOut = carriedOut || err == nil
		if err != nil && !errors.Is(err, ports.ErrBusy) {
			t.Errorf("error of rival %d = %v, want none or %v", i, err, ports.ErrBusy)
		}
	}
	view := mustRead(t, s.Leader.Registry)
	if !carriedOut { // they cancelled each other
		mustHold(t, view, domain.NewReplacement())
		return
	}
	last := view.Len() - 20
	if last < 0 || last >= rivals || errs[last] != nil {
		t.Fatalf("nodes = %d, want those of a replacement that was made", view.Len())
	}
	mustHold(t, view, replacement(t, 20+last, last+1))
}

func endedContextReplacesNothing(t *testing.T, s Subject) {
	before := mustPropose(t, s.Leader.Registry, register("a", 1)).Revision
	if _, err := s.Leader.Restorer.Replace(ended(t), replacement(t, 5, 7), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Replace = %v, want %v", err, context.Canceled)
	}
	if now := mustRead(t, s.Leader.Registry).Revision(); now != before {
		t.Errorf("revision of the registry = %d, want %d", now, before)
	}
}

func followerReplacesNothing(t *testing.T, s Subject) {
	before := mustPropose(t, s.Leader.Registry, register("a", 1)).Revision
	if _, err := s.Follower.Restorer.Replace(within(t), replacement(t, 5, 7), nil); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Replace = %v, want %v", err, ports.ErrNotLeader)
	}
	if now := mustRead(t, s.Leader.Registry).Revision(); now != before {
		t.Errorf("revision of the registry = %d, want %d", now, before)
	}
}

func followerHasReplacement(t *testing.T, s Subject) {
	mustReplace(t, s.Leader, replacement(t, 30, 3))
	mustEqual(t, "the registry of the follower", show(mustReadHere(t, s.Follower.Registry)), show(mustRead(t, s.Leader.Registry)))
}
