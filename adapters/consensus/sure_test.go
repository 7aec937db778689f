package consensus

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestWhoIsSureThatItLeads(t *testing.T) {
	cluster := startCluster(t, 3, func(c *instanceConfig) {
		// Long enough for a leader that hears from nobody to be looked at before it
		// gives up.
		c.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = 2*time.Second, 2*time.Second }
	})
	leader := cluster[0]
	until(t, "the leader is sure", leader.SureLeader)
	for _, follower := range cluster[1:] {
		if follower.SureLeader() {
			t.Errorf("%s follows, and is sure that it leads", follower.config.ID)
		}
	}
	leader.handingOver.Add(1)
	if leader.SureLeader() {
		t.Error("while it hands over it is sure that nobody has taken over")
	}
	leader.handingOver.Add(-1)
	until(t, "it is sure again", leader.SureLeader)

	for _, follower := range cluster[1:] {
		follower.stop(t)
	}
	until(t, "a leader that hears from nobody is not sure", func() bool { return !leader.SureLeader() })
	if state, _ := leader.State(); !state.Leading {
		t.Error("it took as long as to give up leadership")
	}
}

// Raft gives up on a successor that is slow to answer; it may take over all the same.
func TestWhoTriedToHandOverIsNotSureForAWhile(t *testing.T) {
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.seams.stuckAfter = patience / 20
		config.seams.transport = func(inner transport) transport { return untaken{inner} }
	})
	leader := cluster[0]
	until(t, "the leader is sure", leader.SureLeader)
	began := time.Now()
	if err := leader.HandOver(within(t), ""); !errors.Is(err, ports.ErrNoSuccessor) {
		t.Fatalf("hand over: %v", err)
	}
	if leader.SureLeader() && time.Since(began) < patience/20 {
		t.Error("it is sure, and its successor may be about to take over")
	}
	until(t, "it is sure again", leader.SureLeader)
}

// untaken loses what tells a successor to take over.
type untaken struct{ transport }

func (untaken) TimeoutNow(raft.ServerID, raft.ServerAddress, *raft.TimeoutNowRequest, *raft.TimeoutNowResponse) error {
	return nil
}

func TestALoneVoterIsSure(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	if i.SureLeader() {
		t.Error("before it is open it leads")
	}
	i = start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading", func(s ports.LocalState) bool { return s.Leading })
	if !i.SureLeader() {
		t.Error("it is not")
	}
}
