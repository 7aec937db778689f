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
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// badDisks starts a cluster of the given size, with the store of each instance.
func badDisks(t *testing.T, size int, configure ...func(*instanceConfig)) ([]*instance, []*badStore) {
	t.Helper()
	var stores []*badStore
	cluster := startCluster(t, size, func(config *instanceConfig) {
		store := newBadStore(t)
		stores = append(stores, store)
		config.open = func(string, *slog.Logger) (logstore.Store, error) { return store, nil }
		config.backend = "memory"
		for _, change := range configure {
			change(config)
		}
	})
	return cluster, stores
}

// loyalWithBadDisks is badDisks where the leader stays, also where processors are scarce.
func loyalWithBadDisks(t *testing.T, size int) ([]*instance, []*badStore) {
	t.Helper()
	return badDisks(t, size, func(config *instanceConfig) { config.timing, config.hooks.settings = hasty, loyal })
}

// begin proposes something and gives the channel with how that ends.
func begin(t *testing.T, i *instance, id string) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := i.Propose(within(t), domain.Register{Node: node(t, id, id+":11211")})
		ended <- err
	}()
	return ended
}

func inTrouble(s ports.LocalState) bool { return s.DiskTrouble != "" }

// follows waits until i follows leader and has all that it has.
func follows(t *testing.T, i, leader *instance) {
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
	release := stores[0].hang()
	t.Cleanup(release)
	began := time.Now()
	waiting := begin(t, leader, "waiting")

	next := leaderOf(t, cluster[1:])
	if took, most := time.Since(began), leader.config.Timing.hangAfter()+5*time.Second; took > most {
		t.Errorf("another one led after %v, more than %v", took, most)
	}
	if err := <-waiting; !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("the write that hangs ended with %v", err)
	}
	state, _ := leader.State()
	if state.Leading || leader.SureLeader() {
		t.Error("a leader whose disk hangs reports that it leads")
	}
	if reasons := strings.Join(state.Unready(""), "; "); !strings.Contains(reasons, "disk of this instance does not answer: it was asked to store") {
		t.Errorf("reasons = %s, want that the disk does not answer", reasons)
	}
	if !leader.Stats().DiskTrouble {
		t.Error("the metrics do not show it")
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
		t.Error("that took until the end of the context")
	}

	register(t, next, "meanwhile")
	release()
	follows(t, leader, leaderOf(t, cluster[1:]))
	mustHold(t, settled(t, leader), "before", "meanwhile")
}

// Nobody takes over from it, and its raft answers nothing before the disk does.
func TestALoneInstanceWhoseDiskHangsAnswersItsCallers(t *testing.T) {
	cluster, stores := badDisks(t, 1, func(config *instanceConfig) { config.timing = hasty })
	register(t, cluster[0], "before")
	release := stores[0].hang()
	t.Cleanup(release)
	waiting := begin(t, cluster[0], "waiting")
	if err := receive(t, waiting, "nobody is told anything"); !errors.Is(err, ports.ErrOutcomeUnknown) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the write that hangs ended with %v", err)
	}
	release()
	cluster[0].eventually(t, "the write is carried out", func(s ports.LocalState) bool { return s.View.Revision() == 2 })
	mustHold(t, settled(t, cluster[0]), "before", "waiting")
}

// What it has applied it knows without the disk.
func TestAFollowerWhoseDiskHangsKnowsTheRoster(t *testing.T) {
	cluster, stores := loyalWithBadDisks(t, 2)
	leader, follower := cluster[0], cluster[1]
	follower.arrives(t, register(t, leader, "before").Revision)
	want, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	release := stores[1].hang()
	t.Cleanup(release)
	waiting := begin(t, leader, "waiting") // nobody can commit it
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
	stores[0].fill(&logstore.NoRoomError{Directory: "/d", Free: 5 << 10, Needed: 4 << 20})
	_, err := leader.Propose(within(t), domain.Register{Node: node(t, "refused", "refused:11211")})
	if !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "/d has 5 kB free") {
		t.Errorf("the write was refused with %v", err)
	}
	next := leaderOf(t, cluster[1:])
	leader.eventually(t, "in trouble", inTrouble)
	for range 3 { // it has room for them nowhere, and stands by
		next = leaderOf(t, cluster[1:])
		register(t, next, "meanwhile")
	}
	if state, _ := leader.State(); state.Leading || len(state.Unready("")) == 0 {
		t.Errorf("state = %+v, want neither leading nor ready", state)
	}
	stores[0].fill(nil)
	follows(t, leader, next)
	view := settled(t, leader)
	mustHold(t, view, "before", "meanwhile")
}

// Raft panics where it can't store a term, or is told of a write that failed.
func TestACandidateWhoseDiskFailsWaitsForIt(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	change := register(t, cluster[0], "before")
	for _, i := range cluster[1:] {
		i.arrives(t, change.Revision) // or it is the append that fails, in a follower
	}
	for _, store := range stores[1:] {
		store.fail(syscall.EIO)
	}
	cluster[0].stop(t)
	// The first one that stands for election waits, and answers nobody.
	until(t, "a candidate is in trouble", func() bool {
		return slices.ContainsFunc(cluster[1:], func(i *instance) bool {
			state, _ := i.State()
			return state.LeaderID == "" && inTrouble(state)
		})
	})
	for _, store := range stores[1:] {
		store.fail(nil)
	}
	leader := leaderOf(t, cluster[1:])
	register(t, leader, "after")
	mustHold(t, settled(t, leader), "before", "after")
}

func TestALoneInstanceWhoseDiskIsFullGoesOnWhenThereIsRoom(t *testing.T) {
	cluster, stores := badDisks(t, 1)
	lone := cluster[0]
	register(t, lone, "before")
	stores[0].fill(&logstore.NoRoomError{Directory: "/d"})
	_, err := lone.Propose(within(t), domain.Deregister{ID: "before"})
	if !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("the write was refused with %v", err)
	}
	until(t, "it waits with its vote for itself", func() bool {
		term, leads := lone.leads()
		stored, err := stores[0].GetUint64(logstore.VoteTermKey)
		return !leads && err == nil && stored == term && lone.raft.Stats()["state"] == "Candidate"
	})
	stores[0].fill(nil)
	lone.eventually(t, "leading", leading)
	register(t, lone, "after")
	mustHold(t, settled(t, lone), "before", "after")
}

// It hears from the leader that it needs what it has no room for.
func TestAFollowerWhoseDiskIsFullRefusesReadsInTime(t *testing.T) {
	cluster, stores := loyalWithBadDisks(t, 3)
	leader, follower := cluster[0], cluster[1]
	register(t, leader, "before")
	mustHold(t, settled(t, follower), "before")
	stores[1].fill(&logstore.NoRoomError{Directory: "/d", Free: 5 << 10, Needed: 4 << 20})
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
	stores[1].fill(nil)
	mustHold(t, settled(t, follower), "before", "after")
}

// What was not written takes no effect.
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
			t.Errorf("one of %d: the write ended with %v", size, err)
		}
	}
}

// Raft's goroutine that cuts the log waits for the disk, and ends without an answer to who
// asked for the snapshot.
func TestAnInstanceWhoseLogCannotBeCutIsClosed(t *testing.T) {
	store := newBadStore(t)
	lone := startCluster(t, 1, func(config *instanceConfig) {
		config.open = func(string, *slog.Logger) (logstore.Store, error) { return store, nil }
		config.backend, config.timing = "memory", keepNoLog
	})[0]
	register(t, lone, "before")
	store.failAppends(syscall.EIO)
	lone.growth.bytes.Add(minGrowth)
	lone.growth.signalIfDue()
	lone.eventually(t, "waiting for the disk", func(s ports.LocalState) bool { return strings.Contains(s.DiskTrouble, "remove log entries") })
	closed := make(chan struct{})
	go func() {
		lone.stop(t)
		close(closed)
	}()
	receive(t, closed, "it is never closed")
}
