package consensus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// badDisks starts a cluster of the given size, and returns the store of each instance with
// it.
func badDisks(t *testing.T, size int, configure ...func(*instanceConfig)) ([]*instance, []*logstoretest.Faulty) {
	t.Helper()
	var stores []*logstoretest.Faulty
	cluster := startCluster(t, size, func(config *instanceConfig) {
		store := logstoretest.NewFaulty(t, memory.Open)
		stores = append(stores, store)
		config.open = func(string, *slog.Logger) (logstore.Store, error) { return store, nil }
		config.backend = "memory"
		for _, change := range configure {
			change(config)
		}
	})
	return cluster, stores
}

// neverDeposedWithBadDisks is badDisks with a leader that stays leader, also on a busy
// machine.
func neverDeposedWithBadDisks(t *testing.T, size int) ([]*instance, []*logstoretest.Faulty) {
	t.Helper()
	return badDisks(t, size, func(config *instanceConfig) { config.timing, config.hooks.settings = shortTimeouts, neverDeposed })
}

// proposeAsync proposes a node, and returns the channel with the error.
func proposeAsync(t *testing.T, i *instance, id string) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := i.Propose(within(t), domain.Register{Node: node(t, id, id+":11211")})
		ended <- err
	}()
	return ended
}

func inTrouble(s ports.LocalState) bool { return s.DiskTrouble != "" }

// mustFollow waits until i follows leader and has applied everything that the leader has.
func mustFollow(t *testing.T, i, leader *instance) {
	t.Helper()
	change := register(t, leader, "after")
	i.eventually(t, "a follower", func(s ports.LocalState) bool {
		return !inTrouble(s) && s.LeaderID == leader.config.ID && s.View.Revision() == change.Revision
	})
}

func TestALeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	leader := cluster[0]
	register(t, leader, "before")
	release := stores[0].Hang()
	t.Cleanup(release)
	began := time.Now()
	waiting := proposeAsync(t, leader, "waiting")

	next := leaderOf(t, cluster[1:])
	if took, most := time.Since(began), leader.config.Timing.hangAfter()+5*time.Second; took > most {
		t.Errorf("a new leader after %v, want within %v", took, most)
	}
	if err := <-waiting; !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("error of the write that hangs = %v, want ErrOutcomeUnknown", err)
	}
	state, _ := leader.State()
	if state.Leading || leader.SureLeader() {
		t.Error("a leader whose disk hangs reports that it leads")
	}
	if reasons := strings.Join(state.Unready(""), "; "); !strings.Contains(reasons, "disk of this instance does not answer: it was asked to store") {
		t.Errorf("reasons = %s, want that the disk does not answer", reasons)
	}
	if !leader.Stats().DiskTrouble {
		t.Error("Stats().DiskTrouble = false, want true")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	notHere := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ports.ErrNoLeader) && !errors.Is(err, ports.ErrNotLeader) || errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("error of %s = %v, want no leader and no unknown outcome", what, err)
		}
	}
	_, err := leader.Propose(ctx, domain.Deregister{ID: "before"})
	notHere("a write", err)
	_, err = leader.Read(ctx)
	notHere("a read", err)
	if ctx.Err() != nil {
		t.Error("the refusals took until the end of the context")
	}

	register(t, next, "meanwhile")
	release()
	mustFollow(t, leader, leaderOf(t, cluster[1:]))
	mustHold(t, mustReadHere(t, leader), "before", "meanwhile")
}

// No instance takes over, and raft answers nothing before the disk does.
func TestALoneInstanceWhoseDiskHangsAnswersItsCallers(t *testing.T) {
	cluster, stores := badDisks(t, 1, func(config *instanceConfig) { config.timing = shortTimeouts })
	register(t, cluster[0], "before")
	release := stores[0].Hang()
	t.Cleanup(release)
	waiting := proposeAsync(t, cluster[0], "waiting")
	if err := receive(t, waiting, "the write that hangs is not answered"); !errors.Is(err, ports.ErrOutcomeUnknown) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error of the write that hangs = %v, want ErrOutcomeUnknown", err)
	}
	release()
	cluster[0].eventually(t, "at the revision of the write", func(s ports.LocalState) bool { return s.View.Revision() == 2 })
	mustHold(t, mustReadHere(t, cluster[0]), "before", "waiting")
}

// The follower needs no disk to know what it has applied.
func TestAFollowerWhoseDiskHangsKnowsTheRoster(t *testing.T) {
	cluster, stores := neverDeposedWithBadDisks(t, 2)
	leader, follower := cluster[0], cluster[1]
	follower.waitForRevision(t, register(t, leader, "before").Revision)
	want, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	release := stores[1].Hang()
	t.Cleanup(release)
	waiting := proposeAsync(t, leader, "waiting") // can't be committed
	follower.eventually(t, "in trouble", inTrouble)
	roster, err := follower.RosterHere(within(t))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the roster here", roster.Instances(), want.Instances())
	release()
	<-waiting
}

func TestALeaderWhoseDiskIsFullIsReplaced(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	leader := cluster[0]
	register(t, leader, "before")
	stores[0].Fill(&logstore.NoRoomError{Directory: "/d", Free: 5 << 10, Needed: 4 << 20})
	_, err := leader.Propose(within(t), domain.Register{Node: node(t, "refused", "refused:11211")})
	if !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "/d has 5 kB free") {
		t.Errorf("Propose on a full disk = %v, want ErrNoLeader and no unknown outcome", err)
	}
	next := leaderOf(t, cluster[1:])
	leader.eventually(t, "in trouble", inTrouble)
	for range 3 { // the full instance can't store these, and must not disturb the others
		next = leaderOf(t, cluster[1:])
		register(t, next, "meanwhile")
	}
	if state, _ := leader.State(); state.Leading || len(state.Unready("")) == 0 {
		t.Errorf("state = %+v, want neither leading nor ready", state)
	}
	stores[0].Fill(nil)
	mustFollow(t, leader, next)
	view := mustReadHere(t, leader)
	mustHold(t, view, "before", "meanwhile")
}

func TestALeaderWhoseDiskFailsIsReplaced(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	leader := cluster[0]
	register(t, leader, "before")
	stores[0].FailAppends(syscall.EIO)
	_, err := leader.Propose(within(t), domain.Register{Node: node(t, "waiting", "waiting:11211")})
	if !errors.Is(err, ports.ErrOutcomeUnknown) || errors.Is(err, ports.ErrNoLeader) {
		t.Errorf("error of the write = %v, want ErrOutcomeUnknown", err)
	}
	next := leaderOf(t, cluster[1:])
	register(t, next, "meanwhile")
	if state, _ := leader.State(); state.Leading || !strings.Contains(strings.Join(state.Unready(""), "; "), syscall.EIO.Error()) {
		t.Errorf("state = %+v, want not leading, and not ready because of EIO", state)
	}
	stores[0].FailAppends(nil)
	mustFollow(t, leader, leaderOf(t, cluster[1:]))
	mustHold(t, mustReadHere(t, leader), "before", "meanwhile")
}

// Raft uses its latest membership even if it could not store it.
func TestAMembershipThatCouldNotBeStoredIsNotUsed(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	leader, gone := cluster[0], cluster[2].config.ID
	register(t, leader, "before")
	stores[0].Fill(&logstore.NoRoomError{Directory: "/d"})
	if err := leader.Remove(within(t), gone); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("Remove = %v, want ErrOutcomeUnknown", err)
	}
	next := leaderOf(t, cluster[1:])
	register(t, next, "meanwhile")
	stores[0].Fill(nil)
	mustFollow(t, leader, leaderOf(t, cluster[1:]))
	for _, i := range cluster {
		i.eventually(t, "aware of all members", func(s ports.LocalState) bool { return len(s.Roster.Instances()) == len(cluster) })
	}
}

// Raft panics if it can't store its term, or if a write of the vote fails.
func TestACandidateWhoseDiskFailsWaitsForIt(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	change := register(t, cluster[0], "before")
	for _, i := range cluster[1:] {
		i.waitForRevision(t, change.Revision) // otherwise the append of a follower fails, instead of a vote
	}
	for _, store := range stores[1:] {
		store.Fail(syscall.EIO)
	}
	cluster[0].stop(t)
	// The first candidate waits for its disk, and answers no request.
	until(t, "a candidate is in trouble", func() bool {
		return slices.ContainsFunc(cluster[1:], func(i *instance) bool {
			state, _ := i.State()
			return state.LeaderID == "" && inTrouble(state)
		})
	})
	for _, store := range stores[1:] {
		store.Fail(nil)
	}
	leader := leaderOf(t, cluster[1:])
	register(t, leader, "after")
	mustHold(t, mustReadHere(t, leader), "before", "after")
}

func TestALoneInstanceWhoseDiskIsFullGoesOnWhenThereIsRoom(t *testing.T) {
	cluster, stores := badDisks(t, 1)
	lone := cluster[0]
	register(t, lone, "before")
	stores[0].Fill(&logstore.NoRoomError{Directory: "/d"})
	_, err := lone.Propose(within(t), domain.Deregister{ID: "before"})
	if !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("Propose on a full disk = %v, want ErrNoLeader and no unknown outcome", err)
	}
	until(t, "the instance stands for election, and waits to store its vote", func() bool {
		term, leads := lone.leads()
		stored, err := stores[0].GetUint64(logstore.VoteTermKey)
		return !leads && err == nil && stored == term && lone.raft.Stats()["state"] == "Candidate"
	})
	stores[0].Fill(nil)
	lone.eventually(t, "leading", leading)
	register(t, lone, "after")
	mustHold(t, mustReadHere(t, lone), "before", "after")
}

// The follower learns from the leader of entries that it has no room for.
func TestAFollowerWhoseDiskIsFullRefusesReadsInTime(t *testing.T) {
	cluster, stores := neverDeposedWithBadDisks(t, 3)
	leader, follower := cluster[0], cluster[1]
	register(t, leader, "before")
	mustHold(t, mustReadHere(t, follower), "before")
	stores[1].Fill(&logstore.NoRoomError{Directory: "/d", Free: 5 << 10, Needed: 4 << 20})
	register(t, leader, "after")
	follower.eventually(t, "in trouble", inTrouble)

	refusedInTime(t, func() time.Duration {
		began := time.Now()
		view, err := follower.ReadHere(within(t))
		if !errors.Is(err, ports.ErrNotCaughtUp) || !strings.Contains(err.Error(), "/d has 5 kB free") {
			t.Errorf("ReadHere = revision %d, %v, want not caught up, with 5 kB free", view.Revision(), err)
		}
		return time.Since(began)
	})
	stores[1].Fill(nil)
	mustHold(t, mustReadHere(t, follower), "before", "after")
}

// A write that was not stored takes no effect.
func TestALeaderWhoseDirectoryIsGoneReportsWritesAsNotDone(t *testing.T) {
	for _, size := range []int{1, 3} {
		cluster, _ := badDisks(t, size)
		leader := cluster[0]
		register(t, leader, "before")
		if err := os.Rename(leader.config.Directory, filepath.Join(t.TempDir(), "elsewhere")); err != nil {
			t.Fatal(err)
		}
		_, err := leader.Propose(within(t), domain.Register{Node: node(t, "lost", "lost:11211")})
		if !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("cluster of %d: Propose = %v, want ErrNoLeader and no unknown outcome", size, err)
		}
	}
}

// Raft's goroutine that cuts the log waits for the disk. When it ends, it does not answer
// the caller that asked for the snapshot.
func TestAnInstanceWhoseLogCannotBeCutIsClosed(t *testing.T) {
	store := logstoretest.NewFaulty(t, memory.Open)
	lone := startCluster(t, 1, func(config *instanceConfig) {
		config.open = func(string, *slog.Logger) (logstore.Store, error) { return store, nil }
		config.backend, config.timing = "memory", keepNoLog
	})[0]
	register(t, lone, "before")
	store.FailAppends(syscall.EIO)
	lone.growth.bytes.Add(minGrowth)
	lone.growth.signalIfDue()
	lone.eventually(t, "waiting for the disk", func(s ports.LocalState) bool { return strings.Contains(s.DiskTrouble, "remove log entries") })
	closed := make(chan struct{})
	go func() {
		lone.stop(t)
		close(closed)
	}()
	receive(t, closed, "the instance is never closed")
}
