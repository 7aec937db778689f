package portstest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func alone(testing.TB) portstest.Subject {
	return portstest.Subject{Leader: portstest.NewInstance("n1", "h:1").Ports()}
}

func followed(testing.TB) portstest.Subject {
	leader := portstest.NewInstance("n1", "h:1")
	follower := leader.NewFollower("n2", "h:2")
	ports := follower.Ports()
	return portstest.Subject{Leader: leader.Ports(), Follower: &ports, StopLeader: func() {
		leader.Change(closed)
		follower.Change(orphaned)
	}}
}

func closed(s *ports.LocalState) { s.Leading, s.Closed = false, true }

func orphaned(s *ports.LocalState) { s.LeaderID, s.LeaderRaftAddress, s.InTouch = "", "", false }

func TestInstanceKeepsThePromisesOfThePorts(t *testing.T) {
	for name, open := range map[string]func(testing.TB) portstest.Subject{
		"alone": alone, "followed": followed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("registry", func(t *testing.T) { portstest.RunRegistry(t, open) })
			t.Run("local", func(t *testing.T) { portstest.RunLocal(t, open) })
			t.Run("membership", func(t *testing.T) { portstest.RunMembership(t, open) })
			t.Run("promotions", func(t *testing.T) { portstest.RunPromotions(t, open) })
			t.Run("restorer", func(t *testing.T) { portstest.RunRestorer(t, open) })
		})
	}
}

func TestInstanceKeepsThePromiseOfFormats(t *testing.T) {
	portstest.RunFormats(t, func(t testing.TB) portstest.FormatsSubject {
		s := followed(t)
		s.Leader.Registry.(*portstest.Instance).Reads(3, func(cmd any) int {
			if _, ok := cmd.(domain.Deregister); ok {
				return 2
			}
			return 1
		})
		return portstest.FormatsSubject{Subject: s, Newer: domain.Deregister{ID: "a"}, Needs: 2, Own: 3}
	})
}

func TestInstanceHasTheStateThatATestSets(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	_, later := i.State()
	i.Change(func(s *ports.LocalState) { s.Leading, s.LeaderID = false, "" })
	select {
	case <-later:
	default:
		t.Error("the channel of the earlier state is open")
	}
	if _, err := i.Read(t.Context()); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Read without leading = %v, want %v", err, ports.ErrNotLeader)
	}
	i.Change(func(s *ports.LocalState) { s.Closed = true })
	if _, err := i.Propose(t.Context(), domain.Deregister{ID: "a"}); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("Propose on a closed instance = %v, want %v", err, ports.ErrClosed)
	}
	i.FailWith(ports.ErrBusy)
	if _, err := i.Roster(t.Context()); !errors.Is(err, ports.ErrBusy) {
		t.Errorf("Roster with FailWith = %v, want %v", err, ports.ErrBusy)
	}
}

func TestInstanceReadsHereInTheStateThatATestSets(t *testing.T) {
	leader := portstest.NewInstance("n1", "h:1")
	follower := leader.NewFollower("n2", "h:2")
	if _, err := leader.Propose(t.Context(), domain.Register{Node: domain.CacheNode{ID: "a", Address: "a:1"}}); err != nil {
		t.Fatal(err)
	}
	if view, err := follower.ReadHere(t.Context()); err != nil || view.Revision() != 1 {
		t.Errorf("ReadHere on a follower = revision %d, %v, want 1", view.Revision(), err)
	}
	follower.Change(orphaned)
	if _, err := follower.ReadHere(t.Context()); !errors.Is(err, ports.ErrNoLeader) {
		t.Errorf("ReadHere without a leader = %v, want %v", err, ports.ErrNoLeader)
	}
	follower.FailWith(ports.ErrBusy)
	if _, err := follower.RosterHere(t.Context()); !errors.Is(err, ports.ErrBusy) {
		t.Errorf("RosterHere with FailWith = %v, want %v", err, ports.ErrBusy)
	}
	follower.FailWith(nil)
	follower.Change(closed)
	if _, err := follower.ReadHere(t.Context()); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("ReadHere on a closed follower = %v, want %v", err, ports.ErrClosed)
	}
}

func TestTouchSetsTheLeaderContact(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	for _, test := range []struct {
		touch time.Duration
		ever  bool
	}{{0, true}, {time.Minute, true}, {-1, false}} {
		i.Touch(test.touch)
		if contact, ever := i.LeaderContact(); ever != test.ever || ever && contact != test.touch {
			t.Errorf("LeaderContact after Touch(%v) = %v, %v, want heard from = %v", test.touch, contact, ever, test.ever)
		}
	}
}
