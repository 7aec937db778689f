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

func mustReadHere(t testing.TB, registry ports.Registry) domain.View {
	t.Helper()
	view, err := registry.ReadHere(within(t))
	if err != nil {
		t.Fatalf("read here: %v", err)
	}
	return view
}

func readHereHoldsAnswers(t *testing.T, s Subject) {
	for i := range 50 {
		change := mustPropose(t, s.Leader.Registry, register("a", i))
		view := mustReadHere(t, s.Leader.Registry)
		got, _ := view.Node("a")
		mustEqual(t, "the revision that was read", view.Revision(), change.Revision)
		mustEqual(t, "the node that was read", got, change.Node)
	}
}

func followerHoldsAnswers(t *testing.T, s Subject) {
	for i := range 60 {
		change := mustPropose(t, s.Leader.Registry, register("a", 1000+i))
		view := mustReadHere(t, s.Follower.Registry)
		got, _ := view.Node("a")
		mustEqual(t, "the revision that was read", view.Revision(), change.Revision)
		mustEqual(t, "the node that was read", got, change.Node)
	}
}

// followerHoldsAnswersUnderLoad reads more often than the follower asks the leader, so that
// reads share requests. No read may share a request that was sent before the read began.
func followerHoldsAnswersUnderLoad(t *testing.T, s Subject) {
	const (
		writers = 8
		each    = 40
	)
	ctx := within(t)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			id := fmt.Sprintf("writer%d", w)
			for i := range each {
				change, err := only(s.Leader.Registry.Propose(ctx, register(id, 2000+i)))
				if err != nil {
					t.Errorf("propose: %v", err)
					return
				}
				view, err := s.Follower.Registry.ReadHere(ctx)
				if err != nil {
					t.Errorf("read here: %v", err)
					return
				}
				if got, _ := view.Node(id); got == nil || got.Revision != change.Revision {
					t.Errorf("after revision %d of %s was answered, node read here = %+v at revision %d", change.Revision, id, got, view.Revision())
					return
				}
			}
		})
	}
	writing.Wait()
}

func predecessorHoldsAnswers(t *testing.T, s Subject) {
	// The test before this one made the follower the leader.
	await(t, s.Leader.Local, "the former leader knows the new one", func(state ports.LocalState) bool {
		return !state.Leading && state.LeaderID == s.Follower.ID
	})
	for i := range 20 {
		change := mustPropose(t, s.Follower.Registry, register("a", 3000+i))
		view := mustReadHere(t, s.Leader.Registry)
		got, _ := view.Node("a")
		mustEqual(t, "the node that was read", got, change.Node)
	}
}

// followerWithoutLeaderReadsNothing also reads before the follower has noticed that the
// leader is gone.
func followerWithoutLeaderReadsNothing(t *testing.T, s Subject) {
	mustPropose(t, s.Leader.Registry, register("a", 1))
	mustReadHere(t, s.Follower.Registry)
	s.StopLeader()
	readNothing := func(when string) {
		for range 20 {
			if view, err := s.Follower.Registry.ReadHere(within(t)); !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrNotLeader) {
				t.Fatalf("%s: ReadHere = revision %d, %v, want %v", when, view.Revision(), err, ports.ErrNoLeader)
			}
			if _, err := s.Follower.Membership.RosterHere(within(t)); !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrNotLeader) {
				t.Fatalf("%s: RosterHere = %v, want %v", when, err, ports.ErrNoLeader)
			}
			if _, err := s.Follower.Registry.ReadHere(ended(t)); !errors.Is(err, context.Canceled) {
				t.Fatalf("%s: ReadHere with an ended context = %v, want %v", when, err, context.Canceled)
			}
			if _, err := s.Follower.Membership.RosterHere(ended(t)); !errors.Is(err, context.Canceled) {
				t.Fatalf("%s: RosterHere with an ended context = %v, want %v", when, err, context.Canceled)
			}
		}
	}
	readNothing("at once")
	await(t, s.Follower.Local, "the follower knows no leader", func(state ports.LocalState) bool { return state.LeaderID == "" })
	readNothing("once it has noticed")
}

func mustRosterHere(t testing.TB, m ports.Membership) domain.Roster {
	t.Helper()
	roster, err := m.RosterHere(within(t))
	if err != nil {
		t.Fatalf("roster here: %v", err)
	}
	return roster
}

// rosterHereHoldsChanges checks RosterHere of here, which may be any instance of the cluster.
func rosterHereHoldsChanges(t *testing.T, leader, here ports.Membership) {
	for i := range 10 {
		mustAdd(t, leader, absentee(i))
		if got, found := mustRosterHere(t, here).Find(absentee(i).ID); !found || got != absentee(i) {
			t.Fatalf("added %+v, but RosterHere has %+v", absentee(i), got)
		}
		moved := absentee(i)
		moved.RaftAddress = absentee(100 + i).RaftAddress
		mustAdd(t, leader, moved)
		if got, _ := mustRosterHere(t, here).Find(moved.ID); got != moved {
			t.Fatalf("moved to %+v, but RosterHere has %+v", moved, got)
		}
		if i%2 == 0 {
			continue
		}
		if err := leader.Remove(within(t), moved.ID); err != nil {
			t.Fatalf("remove: %v", err)
		}
		if got, found := mustRosterHere(t, here).Find(moved.ID); found {
			t.Fatalf("removed, but RosterHere has %+v", got)
		}
	}
	mustEqual(t, "the members here", mustRosterHere(t, here).Instances(), mustRoster(t, leader).Instances())
}
