package consensus

import (
	"fmt"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// restart starts a stopped instance again, with its directory and address.
func restart(tb testing.TB, i *instance, timing func(*Timing)) *instance {
	tb.Helper()
	return start(tb, instanceConfig{id: i.config.ID, directory: i.config.Directory, address: i.raftAddress(), timing: timing})
}

// mustHoldTheSame fails unless two instances hold the same state.
func mustHoldTheSame(t *testing.T, a, b ports.LocalState) {
	t.Helper()
	mustEqual(t, "the registry", domaintest.ContentsOf(a.View), domaintest.ContentsOf(b.View))
	mustEqual(t, "the membership", a.Roster.Instances(), b.Roster.Instances())
	mustEqual(t, "the cluster's id", a.ClusterID, b.ClusterID)
}

// waitForRevision waits until i has caught up and has at least this revision.
func (i *instance) waitForRevision(tb testing.TB, revision domain.Revision) {
	tb.Helper()
	i.eventually(tb, fmt.Sprintf("at revision %d", revision), func(s ports.LocalState) bool {
		return s.View.Revision() >= revision && s.CaughtUp
	})
}

func TestAFollowerThatTheLogNoLongerReachesIsSentASnapshot(t *testing.T) {
	t.Parallel()
	frugal := func(timing *Timing) {
		timing.SnapshotThreshold, timing.TrailingLogs, timing.SnapshotInterval = 8, 1, 5*time.Millisecond
	}
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = frugal })
	leader, late := cluster[0], cluster[2]
	change := register(t, leader, "before")
	late.waitForRevision(t, change.Revision)
	last := late.raft.LastIndex()
	late.stop(t)

	n := 0
	until(t, "the leader's log begins behind the end of the late instance's log", func() bool {
		change = register(t, leader, fmt.Sprintf("n%d", n))
		n++
		first, err := leader.store.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		return first > last+1
	})
	late = restart(t, late, frugal)
	late.waitForRevision(t, change.Revision)
	change = register(t, leader, "after")
	late.waitForRevision(t, change.Revision)
	want, _ := leader.State()
	got, _ := late.State()
	mustHoldTheSame(t, got, want)

	// The instance could lead as well as any other.
	leader.stop(t)
	cluster[1].stop(t)
	second := restart(t, cluster[1], frugal)
	next := leaderOf(t, []*instance{second, late})
	view, err := next.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if view.Revision() != change.Revision {
		t.Errorf("revision of the new leader %s = %d, want %d", next.config.ID, view.Revision(), change.Revision)
	}
}

func TestAStoppedClusterRestartsWithAllItsState(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	for i := range 20 {
		register(t, cluster[0], fmt.Sprintf("n%d", i))
	}
	if _, err := cluster[0].Propose(within(t), domain.Deregister{ID: "n3"}); err != nil {
		t.Fatal(err)
	}
	before, _ := cluster[0].State()
	for _, i := range cluster {
		i.stop(t)
	}
	for n, i := range cluster {
		cluster[n] = restart(t, i, nil)
		if state, _ := cluster[n].State(); !state.Member || state.ClusterID != before.ClusterID {
			t.Errorf("state of %s before contact = %+v, want a member of its cluster", i.config.ID, state)
		}
	}
	leader := leaderOf(t, cluster)
	view, err := leader.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the revision after the restart", view.Revision(), before.View.Revision())
	for _, i := range cluster {
		i.waitForRevision(t, before.View.Revision())
		after, _ := i.State()
		mustHoldTheSame(t, after, before)
	}
	if change := register(t, leader, "after"); change.Revision != before.View.Revision()+1 {
		t.Errorf("revision of the next change = %d, want %d", change.Revision, before.View.Revision()+1)
	}
}

// An instance that comes back at another address, without being told to join there, reports
// what is wrong.
func TestAnInstanceThatMovedSaysWhereItIsAMember(t *testing.T) {
	moved := instanceConfig{}
	cluster := startCluster(t, 3, func(config *instanceConfig) { moved = *config })
	for _, i := range cluster {
		if state, _ := i.State(); state.RosterRaftAddress != "" {
			t.Errorf("%s reports that it is a member at %s, want no address", i.config.ID, state.RosterRaftAddress)
		}
	}
	before := cluster[2].raftAddress()
	cluster[2].stop(t)
	moved.address = ""
	start(t, moved).eventually(t, "reporting at which address it is a member", func(state ports.LocalState) bool {
		return state.RosterRaftAddress == string(before) && state.LeaderID == ""
	})
}
