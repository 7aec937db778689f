package portstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RunMembership checks the contracts of ports.Membership and ports.Leadership. Each test opens a
// subject of its own, which open closes with tb.Cleanup. The instances that the tests add do
// not exist, so they are nonvoters: a voter that does not answer can cost a cluster its
// quorum.
func RunMembership(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"the leader is a voter":                              leaderIsVoter,
		"an instance is added, moved and removed":            instanceComesAndGoes,
		"an address has one owner":                           addressHasOneOwner,
		"an instance that is no member can't be removed":     strangerIsNotRemoved,
		"the last voter stays":                               lastVoterStays,
		"concurrent changes of the membership are all made":  manyChangeMembership,
		"a context that has ended changes nothing":           endedContextChangesNoMember,
		"leadership stays if there is no other voter":        loneVoterKeepsLeadership,
		"leadership goes to voters only":                     onlyVotersTakeOver,
		"the registry is the same before and after a change": membershipTouchesNoNodes,
		"a roster here holds every change answered before": func(t *testing.T, s Subject) {
			rosterHereHoldsChanges(t, s.Leader.Membership, s.Leader.Membership)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("a follower", func(t *testing.T) {
		if s := open(t); s.Follower != nil {
			t.Run("changes nothing", func(t *testing.T) { followerChangesNoMember(t, s) })
			t.Run("has a roster here that holds every change answered before", func(t *testing.T) {
				rosterHereHoldsChanges(t, s.Leader.Membership, s.Follower.Membership)
			})
			t.Run("is demoted and promoted", func(t *testing.T) { followerIsDemoted(t, s) })
			t.Run("takes over", func(t *testing.T) { followerTakesOver(t, s, "") })
		}
		if s := open(t); s.Follower != nil {
			t.Run("that is named takes over", func(t *testing.T) { followerTakesOver(t, s, s.Follower.ID) })
		}
	})
}

func absentee(i int) domain.Instance {
	return domain.Instance{ID: fmt.Sprintf("absent%d", i), RaftAddress: fmt.Sprintf("127.0.0.1:%d", 1+i), Suffrage: domain.Nonvoter}
}

func mustRoster(t testing.TB, m ports.Membership) domain.Roster {
	t.Helper()
	roster, err := m.Roster(within(t))
	if err != nil {
		t.Fatalf("roster: %v", err)
	}
	return roster
}

func mustAdd(t testing.TB, m ports.Membership, instance domain.Instance) {
	t.Helper()
	if err := m.Add(within(t), instance); err != nil {
		t.Fatalf("add %+v: %v", instance, err)
	}
	if got, found := mustRoster(t, m).Find(instance.ID); !found || got != instance {
		t.Fatalf("added %+v, but the roster has %+v", instance, got)
	}
}

// demoteOthers leaves the leader as the only voter.
func demoteOthers(t testing.TB, leader Ports) domain.Instance {
	t.Helper()
	roster := mustRoster(t, leader.Membership)
	for _, other := range roster.Instances() {
		if other.ID != leader.ID && other.Suffrage == domain.Voter {
			other.Suffrage = domain.Nonvoter
			mustAdd(t, leader.Membership, other)
		}
	}
	self, _ := roster.Find(leader.ID)
	return self
}

func leaderIsVoter(t *testing.T, s Subject) {
	self, found := mustRoster(t, s.Leader.Membership).Find(s.Leader.ID)
	if !found || self.Suffrage != domain.Voter || self.RaftAddress == "" {
		t.Fatalf("leader in the roster = %+v, %v, want a voter with an address", self, found)
	}
}

func instanceComesAndGoes(t *testing.T, s Subject) {
	m := s.Leader.Membership
	before := mustRoster(t, m).Instances()
	instance := absentee(0)
	mustAdd(t, m, instance)
	mustAdd(t, m, instance) // Add may be called again
	instance.RaftAddress = absentee(1).RaftAddress
	mustAdd(t, m, instance)
	mustAdd(t, m, domain.Instance{ID: "another", RaftAddress: absentee(0).RaftAddress, Suffrage: domain.Nonvoter})
	if got := len(mustRoster(t, m).Instances()); got != len(before)+2 {
		t.Errorf("members = %d, want %d", got, len(before)+2)
	}
	for _, id := range []string{instance.ID, "another"} {
		if err := m.Remove(within(t), id); err != nil {
			t.Fatalf("remove %s: %v", id, err)
		}
	}
	mustEqual(t, "the members in the end", mustRoster(t, m).Instances(), before)
}

func addressHasOneOwner(t *testing.T, s Subject) {
	m := s.Leader.Membership
	mustAdd(t, m, absentee(0))
	mustAdd(t, m, absentee(1))
	before := mustRoster(t, m).Instances()
	self, _ := mustRoster(t, m).Find(s.Leader.ID)
	for name, instance := range map[string]domain.Instance{
		"a newcomer at the leader's":   {ID: "new", RaftAddress: self.RaftAddress, Suffrage: domain.Voter},
		"a newcomer at a nonvoter's":   {ID: "new", RaftAddress: absentee(0).RaftAddress, Suffrage: domain.Nonvoter},
		"a member moving to another's": {ID: absentee(1).ID, RaftAddress: absentee(0).RaftAddress, Suffrage: domain.Nonvoter},
	} {
		if err := m.Add(within(t), instance); !errors.Is(err, domain.ErrAddressInUse) {
			t.Errorf("%s: Add = %v, want %v", name, err, domain.ErrAddressInUse)
		}
	}
	mustEqual(t, "the members", mustRoster(t, m).Instances(), before)
}

func strangerIsNotRemoved(t *testing.T, s Subject) {
	m := s.Leader.Membership
	before := mustRoster(t, m).Instances()
	if err := m.Remove(within(t), "stranger"); !errors.Is(err, domain.ErrNoSuchInstance) {
		t.Errorf("Remove = %v, want %v", err, domain.ErrNoSuchInstance)
	}
	mustEqual(t, "the members", mustRoster(t, m).Instances(), before)
}

func lastVoterStays(t *testing.T, s Subject) {
	m := s.Leader.Membership
	self := demoteOthers(t, s.Leader)
	mustAdd(t, m, absentee(0))
	before := mustRoster(t, m).Instances()
	if err := m.Remove(within(t), self.ID); !errors.Is(err, domain.ErrLastVoter) {
		t.Errorf("Remove of the last voter = %v, want %v", err, domain.ErrLastVoter)
	}
	self.Suffrage = domain.Nonvoter
	if err := m.Add(within(t), self); !errors.Is(err, domain.ErrLastVoter) {
		t.Errorf("demotion of the last voter = %v, want %v", err, domain.ErrLastVoter)
	}
	mustEqual(t, "the members", mustRoster(t, m).Instances(), before)
}

func manyChangeMembership(t *testing.T, s Subject) {
	const many = 8
	m, ctx := s.Leader.Membership, within(t)
	before := mustRoster(t, m).Instances()
	atOnce := func(what string, change func(i int) error) {
		var changing sync.WaitGroup
		for i := range many {
			changing.Go(func() {
				if err := change(i); err != nil {
					t.Errorf("%s %d: %v", what, i, err)
				}
			})
		}
		changing.Wait()
	}
	atOnce("add", func(i int) error { return m.Add(ctx, absentee(i)) })
	roster := mustRoster(t, m)
	for i := range many {
		if got, found := roster.Find(absentee(i).ID); !found || got != absentee(i) {
			t.Errorf("member = %+v, want %+v", got, absentee(i))
		}
	}
	atOnce("remove", func(i int) error { return m.Remove(ctx, absentee(i).ID) })
	mustEqual(t, "the members in the end", mustRoster(t, m).Instances(), before)

	// Of several instances that claim one address at once, one gets it.
	errs := make([]error, many)
	atOnce("claim", func(i int) error {
		errs[i] = m.Add(ctx, domain.Instance{ID: absentee(i).ID, RaftAddress: "127.0.0.1:1", Suffrage: domain.Nonvoter})
		return nil
	})
	owners := 0
	for _, err := range errs {
		switch {
		case err == nil:
			owners++
		case !errors.Is(err, domain.ErrAddressInUse):
			t.Errorf("claim = %v, want success or %v", err, domain.ErrAddressInUse)
		}
	}
	if owners != 1 {
		t.Errorf("instances that got the address = %d, want 1", owners)
	}
}

func endedContextChangesNoMember(t *testing.T, s Subject) {
	m := s.Leader.Membership
	mustAdd(t, m, absentee(0))
	before := mustRoster(t, m).Instances()
	for name, ask := range map[string]func(context.Context) error{
		"roster":      func(ctx context.Context) error { _, err := m.Roster(ctx); return err },
		"roster here": func(ctx context.Context) error { _, err := m.RosterHere(ctx); return err },
		"add":         func(ctx context.Context) error { return m.Add(ctx, absentee(1)) },
		"remove":      func(ctx context.Context) error { return m.Remove(ctx, absentee(0).ID) },
		"hand over":   func(ctx context.Context) error { return s.Leader.Leadership.HandOver(ctx, "") },
	} {
		if err := ask(ended(t)); !errors.Is(err, context.Canceled) || errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("%s: error = %v, want %v", name, err, context.Canceled)
		}
	}
	mustEqual(t, "the members", mustRoster(t, m).Instances(), before)
	if state, _ := s.Leader.Local.State(); !state.Leading {
		t.Error("leadership was handed over")
	}
}

func onlyVotersTakeOver(t *testing.T, s Subject) {
	mustAdd(t, s.Leader.Membership, absentee(0))
	for to, want := range map[string]error{
		absentee(0).ID: domain.ErrNotVoter,
		"stranger":     domain.ErrNoSuchInstance,
		s.Leader.ID:    ports.ErrNoSuccessor,
	} {
		if err := s.Leader.Leadership.HandOver(within(t), to); !errors.Is(err, want) || errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("hand over to %s: %v, want %v", to, err, want)
		}
	}
	if state, _ := s.Leader.Local.State(); !state.Leading {
		t.Error("the leader does not lead any more")
	}
	mustPropose(t, s.Leader.Registry, register("a", 1))
}

func loneVoterKeepsLeadership(t *testing.T, s Subject) {
	demoteOthers(t, s.Leader)
	mustAdd(t, s.Leader.Membership, absentee(0))
	if err := s.Leader.Leadership.HandOver(within(t), ""); !errors.Is(err, ports.ErrNoSuccessor) {
		t.Errorf("HandOver = %v, want %v", err, ports.ErrNoSuccessor)
	}
	if state, _ := s.Leader.Local.State(); !state.Leading {
		t.Error("the leader does not lead any more")
	}
	mustPropose(t, s.Leader.Registry, register("a", 1))
}

func membershipTouchesNoNodes(t *testing.T, s Subject) {
	mustPropose(t, s.Leader.Registry, register("a", 1))
	before := show(mustRead(t, s.Leader.Registry))
	mustAdd(t, s.Leader.Membership, absentee(0))
	mustEqual(t, "the registry", show(mustRead(t, s.Leader.Registry)), before)
	if change := mustPropose(t, s.Leader.Registry, register("b", 1)); change.Revision != before.Revision+1 {
		t.Errorf("revision of the next change = %d, want %d", change.Revision, before.Revision+1)
	}
}

func followerChangesNoMember(t *testing.T, s Subject) {
	before := mustRoster(t, s.Leader.Membership).Instances()
	m := s.Follower.Membership
	for name, ask := range map[string]func(context.Context) error{
		"roster":    func(ctx context.Context) error { _, err := m.Roster(ctx); return err },
		"add":       func(ctx context.Context) error { return m.Add(ctx, absentee(0)) },
		"remove":    func(ctx context.Context) error { return m.Remove(ctx, s.Leader.ID) },
		"hand over": func(ctx context.Context) error { return s.Follower.Leadership.HandOver(ctx, "") },
	} {
		if err := ask(within(t)); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("%s: error = %v, want %v", name, err, ports.ErrNotLeader)
		}
	}
	mustEqual(t, "the members", mustRoster(t, s.Leader.Membership).Instances(), before)
}

func followerIsDemoted(t *testing.T, s Subject) {
	m := s.Leader.Membership
	voter, found := mustRoster(t, m).Find(s.Follower.ID)
	if !found || voter.Suffrage != domain.Voter {
		t.Fatalf("follower in the roster = %+v, %v, want a voter", voter, found)
	}
	demoted := voter
	demoted.Suffrage = domain.Nonvoter
	mustAdd(t, m, demoted)
	mustPropose(t, s.Leader.Registry, register("a", 1))
	mustAdd(t, m, voter)
	last := mustPropose(t, s.Leader.Registry, register("b", 1))
	await(t, s.Follower.Local, "the follower follows as a voter", func(state ports.LocalState) bool {
		got, found := state.Roster.Find(voter.ID)
		return found && got == voter && state.View.Revision() >= last.Revision
	})
}

func followerTakesOver(t *testing.T, s Subject, to string) {
	term := await(t, s.Leader.Local, "the leader leads", leading).Term
	_, laterHere := s.Leader.Local.State()
	_, laterThere := s.Follower.Local.State()
	if err := s.Leader.Leadership.HandOver(within(t), to); err != nil {
		t.Fatalf("hand over: %v", err)
	}
	for who, later := range map[string]<-chan struct{}{"the old leader": laterHere, "the new one": laterThere} {
		select {
		case <-later:
		case <-time.After(patience):
			t.Errorf("leadership was handed over, but the channel of the state at %s is open", who)
		}
	}
	if state, _ := s.Leader.Local.State(); state.Leading {
		t.Error("the former leader still leads after HandOver")
	}
	if err := s.Leader.Membership.Add(within(t), absentee(0)); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Add on the former leader = %v, want %v", err, ports.ErrNotLeader)
	}
	successor := await(t, s.Follower.Local, "the successor leads", leading)
	if successor.Term <= term || successor.LeaderID != s.Follower.ID {
		t.Errorf("leader = %q in term %d, want %q in a term after %d", successor.LeaderID, successor.Term, s.Follower.ID, term)
	}
	await(t, s.Leader.Local, "the old leader knows the new one", func(state ports.LocalState) bool {
		return state.LeaderID == s.Follower.ID && !state.Leading
	})
	mustAdd(t, s.Follower.Membership, absentee(0))
}
