package portstest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RunLocal examines what ports.Local promises. Each test opens a subject of its
// own, which open closes with tb.Cleanup.
func RunLocal(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"a leader knows that it leads":                        leaderKnowsItself,
		"the state is never behind what was answered":         stateIsNotBehind,
		"the channel is closed once there is a later state":   channelIsClosed,
		"the channel of the latest state is open":             channelIsOpen,
		"who waits for the channel misses nothing":            nothingIsMissed,
		"a state stays as it was":                             stateStays,
		"a change of the membership is a later state as well": membershipIsState,
		"a leader is in touch with a majority":                func(t *testing.T, s Subject) { isInTouch(t, s.Leader.Local) },
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
	t.Run("a follower without a leader is in touch with nobody", func(t *testing.T) {
		if s := open(t); s.StopLeader != nil {
			isInTouch(t, s.Follower.Local)
			s.StopLeader()
			await(t, s.Follower.Local, "it is not in touch, and knows no leader", func(state ports.LocalState) bool {
				return !state.InTouch && state.LeaderID == ""
			})
		}
	})
}

// isInTouch waits for a recent contact. What is recent leaves room for contacts that are
// late on a busy machine.
func isInTouch(t *testing.T, local ports.Local) {
	t.Helper()
	const short = time.Second
	await(t, local, "it is in touch", func(state ports.LocalState) bool { return state.InTouch })
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		contact, ever := local.LeaderContact()
		switch {
		case contact < 0:
			t.Fatalf("it will hear from a leader in %v", -contact)
		case ever && contact <= short:
			return
		case time.Now().After(deadline):
			t.Fatalf("it is in touch, and heard from a leader %v ago (ever: %v)", contact, ever)
		}
	}
}

func leaderKnowsItself(t *testing.T, s Subject) {
	state := await(t, s.Leader.Local, "it is ready", func(state ports.LocalState) bool { return len(state.Unready("")) == 0 })
	self, isMember := state.Roster.Find(s.Leader.ID)
	switch {
	case !state.Leading || state.LeaderID != s.Leader.ID:
		t.Errorf("leading is %v, the leader is %q", state.Leading, state.LeaderID)
	case !isMember || !state.Member || self.Suffrage != domain.Voter:
		t.Errorf("member is %v, the roster has %+v", state.Member, self)
	case state.LeaderRaftAddress != self.RaftAddress:
		t.Errorf("the leader is at %q, and at %q in the roster", state.LeaderRaftAddress, self.RaftAddress)
	case state.ClusterID == "" || state.Term == 0 || state.Closed:
		t.Errorf("the cluster is %q, the term %d, closed is %v", state.ClusterID, state.Term, state.Closed)
	}
}

func stateIsNotBehind(t *testing.T, s Subject) {
	for i := range 50 {
		change := mustPropose(t, s.Leader.Registry, register("a", i))
		if state, _ := s.Leader.Local.State(); state.View.Revision() < change.Revision {
			t.Fatalf("revision %d was answered, and the state is at %d", change.Revision, state.View.Revision())
		}
		view := mustRead(t, s.Leader.Registry)
		if state, _ := s.Leader.Local.State(); state.View.Revision() < view.Revision() {
			t.Fatalf("revision %d was read, and the state is at %d", view.Revision(), state.View.Revision())
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
			t.Fatalf("revision %d is there, and the channel from before it is open", change.Revision)
		}
	}
}

// channelIsOpen: a channel that is always closed would make those who wait for it spin.
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
			t.Fatal("nothing changes, and no channel is open")
		default:
		}
	}
}

func nothingIsMissed(t *testing.T, s Subject) {
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
					t.Errorf("revision %d came after %d", state.View.Revision(), position)
					return
				}
				for _, change := range history {
					if position++; change.Revision != position {
						t.Errorf("revision %d came in the place of %d", change.Revision, position)
						return
					}
				}
				if len(history) > 0 {
					continue
				}
				select {
				case <-later:
				case <-deadline:
					t.Errorf("who waited has come to revision %d of %d", position, first+changes)
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

func stateStays(t *testing.T, s Subject) {
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
	state := await(t, s.Leader.Local, "the roster no longer has it", func(state ports.LocalState) bool {
		_, found := state.Roster.Find("joining")
		return !found
	})
	var index uint64
	var had []bool
	for _, membership := range state.Committed {
		if membership.Index <= index {
			t.Errorf("a membership is committed at %d, after one at %d", membership.Index, index)
		}
		_, found := membership.Roster.Find("joining")
		index, had = membership.Index, append(had, found)
	}
	if n := len(had); n < 2 || !had[n-2] || had[n-1] {
		t.Errorf("the memberships committed have it: %v", had)
	}
}

func followerKnowsItsLeader(t *testing.T, s Subject) {
	state := await(t, s.Follower.Local, "it is ready", func(state ports.LocalState) bool { return len(state.Unready("")) == 0 })
	leader, _ := s.Leader.Local.State()
	switch {
	case state.Leading:
		t.Error("it leads")
	case state.LeaderID != s.Leader.ID || state.LeaderRaftAddress != leader.LeaderRaftAddress:
		t.Errorf("its leader is %q at %q, not %q at %q", state.LeaderID, state.LeaderRaftAddress, s.Leader.ID, leader.LeaderRaftAddress)
	case state.Term != leader.Term || state.ClusterID != leader.ClusterID || leader.ClusterID == "":
		t.Errorf("it is in term %d of cluster %q, its leader in term %d of %q", state.Term, state.ClusterID, leader.Term, leader.ClusterID)
	}
	if _, isMember := state.Roster.Find(s.Follower.ID); !isMember || !state.Member {
		t.Errorf("member is %v, the roster has it: %v", state.Member, isMember)
	}
}

func followerFollows(t *testing.T, s Subject) {
	for i := range 10 {
		mustPropose(t, s.Leader.Registry, register("a", 100+i))
		mustPropose(t, s.Leader.Registry, register("b", 100+i))
	}
	mustPropose(t, s.Leader.Registry, domain.Deregister{ID: "a"})
	want := mustRead(t, s.Leader.Registry)
	state := await(t, s.Follower.Local, "it has all changes", func(state ports.LocalState) bool {
		return state.View.Revision() >= want.Revision()
	})
	mustEqual(t, "its registry", show(state.View), show(want))
}
