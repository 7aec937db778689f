package consensus

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// trioWithoutLog starts a cluster of three and stops the last one. The others keep what
// happens meanwhile only in a snapshot: their logs are empty behind it.
func trioWithoutLog(t *testing.T, meanwhile func(leader *instance)) (leader, other, late *instance) {
	t.Helper()
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = keepNoLog })
	leader, other, late = cluster[0], cluster[1], cluster[2]
	change := register(t, leader, "before")
	late.waitForRevision(t, change.Revision)
	late.stop(t)
	meanwhile(leader)
	if err := leader.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	first, err := leader.store.FirstIndex()
	if err != nil || first != 0 {
		t.Fatalf("FirstIndex of the leader = %d, %v, want 0: without an empty log the test shows nothing", first, err)
	}
	return leader, other, late
}

func keepNoLog(timing *Timing) { timing.TrailingLogs = 0 }

// A follower that restored a snapshot is as far in the log as the snapshot, even when no
// entry follows.
func TestAFollowerThatWasSentASnapshotReadsHere(t *testing.T) {
	leader, other, late := trioWithoutLog(t, func(leader *instance) {
		for n := range 20 {
			register(t, leader, fmt.Sprintf("n%d", n))
		}
		a, b := domaintest.Node(t, "a", "h:1"), domaintest.Node(t, "b", "h:2")
		a.TTLSeconds, b.TTLSeconds, b.OnExpiry = 30, 30, domain.DownOnExpiry
		pair := domain.Batch{Commands: []domain.Command{domain.Register{Node: a}, domain.Register{Node: b}}}
		if _, err := leader.Propose(within(t), pair); err != nil {
			t.Fatal(err)
		}
	})
	late = restart(t, late, keepNoLog)
	mustHold(t, mustReadHere(t, late), "before", "n0", "n19", "a", "b")
	until(t, "the follower was sent a snapshot", func() bool { return late.raft.Stats()["last_snapshot_index"] != "0" })
	if got, committed := late.state.read().Applied, leader.commitIndex(); got != committed {
		t.Errorf("applied index of the follower = %d, want %d as committed by the leader", got, committed)
	}
	mustBeAlike(t, leader, other, late)
	register(t, leader, "after")
	mustHold(t, mustReadHere(t, late), "after")
	mustBeAlike(t, leader, other, late)
}

// The last entry need not be a command.
func TestANewcomerReadsHereAtOnce(t *testing.T) {
	cluster := startCluster(t, 2, nil)
	leader := cluster[0]
	register(t, leader, "a")
	newcomer := start(t, instanceConfig{id: "newcomer", directory: t.TempDir()})
	if _, err := newcomer.ReadHere(within(t)); !errors.Is(err, ports.ErrNoLeader) {
		t.Errorf("ReadHere before it is a member = %v, want ErrNoLeader", err)
	}
	if err := leader.Add(within(t), domain.Instance{ID: "newcomer", RaftAddress: newcomer.raftAddress(), Suffrage: domain.Nonvoter}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, mustReadHere(t, newcomer), "a")
	roster, err := newcomer.RosterHere(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, found := roster.Find("newcomer"); !found {
		t.Errorf("the roster lacks the newcomer: %+v", roster.Instances())
	}
	mustBeAlike(t, leader, cluster[1], newcomer)
}

// pausingFSM is a state machine whose Restore waits at its end, before raft knows that it
// succeeded.
type pausingFSM struct {
	*machine
	restored chan<- struct{}
	proceed  <-chan struct{}
}

func (p pausingFSM) Restore(snapshot io.ReadCloser) error {
	err := p.machine.Restore(snapshot)
	p.restored <- struct{}{}
	<-p.proceed
	return err
}

// Raft restores the state machine first, and the membership after it.
func TestRosterHereHasTheMembersOfASnapshotAtOnce(t *testing.T) {
	leader, _, late := trioWithoutLog(t, func(leader *instance) {
		if err := leader.Add(within(t), nonvoter("new")); err != nil {
			t.Fatal(err)
		}
		register(t, leader, "after")
	})
	restored, proceed := make(chan struct{}, 4), make(chan struct{})
	late = start(t, instanceConfig{
		id: late.config.ID, directory: late.config.Directory, address: late.raftAddress(), timing: keepNoLog,
		hooks: testHooks{fsm: func(m *machine) raft.FSM { return pausingFSM{m, restored, proceed} }},
	})
	t.Cleanup(func() { close(proceed) })
	receive(t, restored, "the follower was sent no snapshot")
	mustHold(t, mustReadHere(t, late), "after")
	here, err := late.RosterHere(within(t))
	if err != nil {
		t.Fatal(err)
	}
	want, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the roster here", here.Instances(), want.Instances())
}
