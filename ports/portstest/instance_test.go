package portstest_test

import (
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func alone(testing.TB) portstest.Subject {
	return portstest.Subject{Leader: portstest.NewInstance("n1", "h:1").Ports()}
}

func followed(testing.TB) portstest.Subject {
	leader := portstest.NewInstance("n1", "h:1")
	follower := leader.NewFollower("n2", "h:2").Ports()
	return portstest.Subject{Leader: leader.Ports(), Follower: &follower}
}

func TestInstanceKeepsThePromisesOfThePorts(t *testing.T) {
	for name, open := range map[string]func(testing.TB) portstest.Subject{
		"alone": alone, "followed": followed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("registry", func(t *testing.T) { portstest.RunRegistry(t, open) })
			t.Run("local", func(t *testing.T) { portstest.RunLocal(t, open) })
			t.Run("membership", func(t *testing.T) { portstest.RunMembership(t, open) })
		})
	}
}

func TestInstanceIsWhatATestMakesOfIt(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	_, later := i.State()
	i.Change(func(s *ports.LocalState) { s.Leading, s.LeaderID = false, "" })
	select {
	case <-later:
	default:
		t.Error("nobody was woken")
	}
	if _, err := i.Read(t.Context()); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("an instance that does not lead: %v", err)
	}
	i.Change(func(s *ports.LocalState) { s.Closed = true })
	if _, err := i.Propose(t.Context(), domain.Deregister{ID: "a"}); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("an instance that is closed: %v", err)
	}
	i.FailWith(ports.ErrBusy)
	if _, err := i.Roster(t.Context()); !errors.Is(err, ports.ErrBusy) {
		t.Errorf("an instance that fails: %v", err)
	}
}
