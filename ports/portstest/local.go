package portstest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RunLocal checks the contract of ports.Local. Each test opens a subject of its own, which open
// closes with tb.Cleanup.
func RunLocal(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"a leader knows that it leads":                         leaderKnowsItself,
		"the state is never behind an answer":                  stateIsNotBehind,
		"the channel is closed once there is a later state":    channelIsClosed,
		"the channel of the latest state is open":              channelIsOpen,
		"a reader that waits for the channel misses no change": waitingReaderMissesNothing,
		"a state does not change":                              stateDoesNotChange,
		"a change of the membership is a later state as well":  membershipIsState,
		"a leader is in touch with a majority":                 func(t *testing.T, s Subject) { isInTouch(t, s.Leader.Local) },
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("a follower", func(t *testing.T) {
		if s := open(t); s.Follower != nil {
			t.Run("knows its leader", func(t *testing.T) { followerKnowsItsLeader(t, s) })
			t.Run("comes to the same registry", func(t *testing.T) { followerFollows(t, s) })
			t.Run("is in touch with its leader", func(t *testing.T) { isInTouch(t, s.Follower.Local) })
		}
	})
	t.Run("a follower without a leader is not in touch", func(t *testing.T) {
		if s := open(t); s.StopLeader != nil {
			isInTouch(t, s.Follower.Local)
			s.StopLeader()
			await(t, s.Follower.Local, "the follower is not in touch, and knows no leader", func(state ports.LocalState) bool {
				return !state.InTouch && state.LeaderID == ""
			})
		}
	})
}

// isInTouch waits for a recent contact. What counts as recent leaves room for contacts that are late
// on a busy machine.
func isInTouch(t *testing.T, local ports.Local) {
	t.Helper()
	const short = time.Second
	await(t, local, "the instance is in touch", func(state ports.LocalState) bool { return state.InTouch })
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		contact, ever := local.LeaderContact()
		switch {
		case contact < 0:
			t.Fatalf("LeaderContact is %v in the future", -contact)
		case ever && contact <= short:
			return
		case time.Now().After(deadline):
			t.Fatalf("InTouch = true, but LeaderContact = %v, %v", contact, ever)
		}
	}
}

func leaderKnowsItself(t *testing.T, s Subject) {
	state := await(t, s.Leader.Local, "the leader is ready", func(state ports.LocalState) bool { return len(state.Unready("")) == 0 })
	self, isMember := state.Roster.Find(s.Leader.ID)
	switch {
	case !state.Leading || state.LeaderID != s.Leader.ID:
		t.Errorf("Leading = %v, LeaderID = %q, want true and %q", state.Leading, state.LeaderID, s.Leader.ID)
	case !isMember || !state.Member || self.Suffrage != domain.Voter:
		t.Errorf("Member = %v, instance in the roster = %+v, want a voter", state.Member, self)
	case state.LeaderRaftAddress != self.RaftAddress:
		t.Errorf("LeaderRaftAddress = %q, want %q as in the roster", state.LeaderRaftAddress, self.RaftAddress)
	case state.ClusterID == "" || state.Term == 0 || state.Closed:
		t.Errorf("ClusterID = %q, Term = %d, Closed = %v, want a cluster, a term and false", state.ClusterID, state.Term, state.Closed)
	}
}

func stateIsNotBehind(t *testing.T, s Subject) {
	for i := range 50 {
		change := mustPropose(t, s.Leader.Registry, register("a", i))
		if state, _ := s.Leader.Local.State(); state.View.Revision() < change.Revision {
			t.Fatalf("revision %d was answered, but the state is at %d", change.Revision, state.View.Revision())
		}
		view := mustRead(t, s.Leader.Registry)
		if state, _ := s.Leader.Local.State(); state.View.Revision() < view.Revision() {
			t.Fatalf("revision %d was read, but the state is at %d", view.Revision(), state.View.Revision())
		}
	}
}

func channelIsClosed(t *testing.T, s Subject) {
	for i := range 20 {
		_, later := s.Leader.Local.State()
		change := mustPropose(t, s.Leader.Registry, register("a", i))
		select {
		case <-later:
		case <-time.After(patience):
			t.Fatalf("the channel of the state before revision %d is still open", change.Revision)
		}
	}
}

// channelIsOpen: readers that wait for a channel that is always closed would spin.
func channelIsOpen(t *testing.T, s Subject) {
	deadline := time.After(patience)
	for {
		_, later := s.Leader.Local.State()
		select {
		case <-later:
		default:
			return
		}
		select {
		case <-deadline:
			t.Fatal("nothing changes, but the channel of every state is closed")
		default:
		}
	}
}

func waitingReaderMissesNothing(t *testing.T, s Subject) {
	const (
		proposers = 4
		each      = 50
		changes   = proposers * each
	)
	first := mustRead(t, s.Leader.Registry).Revision()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			deadline := time.After(patience)
			position := first
			for position < first+changes {
				state, later := s.Leader.Local.State()
				history, reaches := state.View.Since(position)
				if !reaches {
					t.Errorf("revision %d followed on %d, beyond the history", state.View.Revision(), position)
					return
				}
				for _, change := range history {
					if position++; change.Revision != position {
						t.Errorf("revision of a change = %d, want %d", change.Revision, position)
						return
					}
				}
				if len(history) > 0 {
					continue
				}
				select {
				case <-later:
				case <-deadline:
					t.Errorf("the reader reached revision %d of %d", position, first+changes)
					return
				}
			}
		})
	}
	ctx := within(t)
	for p := range proposers {
		all.Go(func() {
			for i := range each {
				if _, err := s.Leader.Registry.Propose(ctx, register(fmt.Sprintf("node%d", p), i)); err != nil {
					t.Errorf("propose: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
}

func stateDoesNotChange(t *testing.T, s Subject) {
	mustPropose(t, s.Leader.Registry, register("a", 1))
	state, _ := s.Leader.Local.State()
	before := show(state.View)
	mustPropose(t, s.Leader.Registry, register("a", 2))
	mustPropose(t, s.Leader.Registry, register("b", 1))
	mustEqual(t, "the view of the state", show(state.View), before)
}

func membershipIsState(t *testing.T, s Subject) {
	joining := domain.Instance{ID: "joining", RaftAddress: "127.0.0.1:1", Suffrage: domain.Nonvoter}
	if err := s.Leader.Membership.Add(within(t), joining); err != nil {
		t.Fatalf("add: %v", err)
	}
	await(t, s.Leader.Local, "the roster has the new instance", func(state ports.LocalState) bool {
		got, found := state.Roster.Find("joining")
		return found && got == joining
	})
	if err := s.Leader.Membership.Remove(within(t), "joining"); err != nil {
		t.Fatalf("remove: %v", err)
	}
	state := await(t, s.Leader.Local, "the roster no longer has the new instance", func(state ports.LocalState) bool {
		_, found := state.Roster.Find("joining")
		return !found
	})
	var index uint64
	var had []bool
	for _, membership := range state.Committed {
		if membership.Index <= index {
			t.Errorf("index of a later membership = %d, want more than %d", membership.Index, index)
		}
		_, found := membership.Roster.Find("joining")
		index, had = membership.Index, append(had, found)
	}
	if n := len(had); n < 2 || !had[n-2] || had[n-1] {
		t.Errorf("the joining instance is in the memberships = %v, want it in the last but one only", had)
	}
}

func followerKnowsItsLeader(t *testing.T, s Subject) {
	state := await(t, s.Follower.Local, "the follower is ready", func(state ports.LocalState) bool { return len(state.Unready("")) == 0 })
	leader, _ := s.Leader.Local.State()
	switch {
	case state.Leading:
		t.Error("the follower leads")
	case state.LeaderID != s.Leader.ID || state.LeaderRaftAddress != leader.LeaderRaftAddress:
		t.Errorf("leader of the follower = %q at %q, want %q at %q", state.LeaderID, state.LeaderRaftAddress, s.Leader.ID, leader.LeaderRaftAddress)
	case state.Term != leader.Term || state.ClusterID != leader.ClusterID || leader.ClusterID == "":
		t.Errorf("the follower is in term %d of cluster %q, want term %d of %q", state.Term, state.ClusterID, leader.Term, leader.ClusterID)
	}
	if _, isMember := state.Roster.Find(s.Follower.ID); !isMember || !state.Member {
		t.Errorf("Member = %v, the roster has the follower = %v, want both true", state.Member, isMember)
	}
}

func followerFollows(t *testing.T, s Subject) {
	for i := range 10 {
		mustPropose(t, s.Leader.Registry, register("a", 100+i))
		mustPropose(t, s.Leader.Registry, register("b", 100+i))
	}
	mustPropose(t, s.Leader.Registry, domain.Deregister{ID: "a"})
	want := mustRead(t, s.Leader.Registry)
	state := await(t, s.Follower.Local, "the follower has all changes", func(state ports.LocalState) bool {
		return state.View.Revision() >= want.Revision()
	})
	mustEqual(t, "the registry of the follower", show(state.View), show(want))
}
