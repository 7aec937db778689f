package consensus

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestWhenAnInstanceIsSureOfItsLeadership(t *testing.T) {
	cluster := startCluster(t, 3, func(c *instanceConfig) {
		// Long enough for a leader without contact to be looked at before it is deposed.
		c.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = 2*time.Second, 2*time.Second }
	})
	leader := cluster[0]
	until(t, "the leader is sure that it leads", leader.SureLeader)
	for _, follower := range cluster[1:] {
		if follower.SureLeader() {
			t.Errorf("follower %s is sure that it leads", follower.config.ID)
		}
	}
	for _, follower := range cluster[1:] {
		follower.stop(t)
	}
	until(t, "the leader without contact is no longer sure", func() bool { return !leader.SureLeader() })
	if state, _ := leader.State(); !state.Leading {
		t.Error("the leader was deposed before the test, which shows nothing")
	}
}

// Raft gives up on a successor that is slow to answer. That may still take over, at any time
// later.
func TestALeaderThatHandsOverIsNotSureUntilTheNextTerm(t *testing.T) {
	const stuck = 100 * time.Millisecond
	var lost atomic.Bool
	var of atomic.Uint64
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.stuckAfter = stuck
		config.hooks.transport = func(inner transport) transport { return swallowedTimeoutNow{inner, &lost, &of} }
	})
	leader, other := cluster[0], cluster[1]
	until(t, "the leader is sure that it leads", leader.SureLeader)
	lost.Store(true)
	if err := leader.HandOver(within(t), ""); !errors.Is(err, ports.ErrNoSuccessor) {
		t.Fatalf("HandOver = %v, want ErrNoSuccessor", err)
	}
	lost.Store(false)
	if term, _ := leader.leads(); of.Load() != term {
		t.Errorf("term of the lost TimeoutNow = %d, want %d", of.Load(), term)
	}
	for began := time.Now(); time.Since(began) < 3*stuck; time.Sleep(stuck / 20) {
		if leader.SureLeader() {
			t.Fatalf("the leader is sure after %v, although its successor may take over", time.Since(began))
		}
	}
	for _, hands := range []struct{ over, to *instance }{{leader, other}, {other, leader}} {
		if err := hands.over.HandOver(within(t), hands.to.config.ID); err != nil {
			t.Fatal(err)
		}
		until(t, "the next leader is sure that it leads", hands.to.SureLeader)
	}
}

// Raft may send a TimeoutNow long after it has given up on the transfer, so two can be in
// flight at once. One that stores its term late, after two elections, must not erase a later
// term.
func TestALateTimeoutNowDoesNotHideThatOfALaterTerm(t *testing.T) {
	var transferred atomic.Uint64
	for _, word := range []struct{ term, want uint64 }{{5, 5}, {7, 7}, {5, 7}, {7, 7}, {8, 8}} {
		raise(&transferred, word.term)
		if latest := transferred.Load(); latest != word.want {
			t.Errorf("latest term after a TimeoutNow of term %d = %d, want %d", word.term, latest, word.want)
		}
	}
}

// swallowedTimeoutNow is a transport that loses TimeoutNow without an error while lost is
// set.
type swallowedTimeoutNow struct {
	transport
	lost *atomic.Bool
	of   *atomic.Uint64 // the term of the leader that sent the lost TimeoutNow
}

func (u swallowedTimeoutNow) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if u.lost.Load() {
		term, _ := termOf(args.ID)
		u.of.Store(term)
		return nil
	}
	return u.transport.TimeoutNow(id, to, args, resp)
}

func TestALoneVoterIsSure(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	if i.SureLeader() {
		t.Error("SureLeader before Open = true, want false")
	}
	i = start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading", func(s ports.LocalState) bool { return s.Leading })
	if !i.SureLeader() {
		t.Error("a lone voter is not sure of its leadership")
	}
}
