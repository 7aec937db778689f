package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// survivor is the directory of one of three instances, all of which are stopped, with the
// state that it had.
type survivor struct {
	dir, id, address string
	backend          logstore.Backend
	state            ports.LocalState
}

// stoppedCluster stops a cluster of three, and returns the directory of one follower.
func stoppedCluster(t *testing.T, backend logstore.Backend, snapshots bool) (survivor, domain.Change) {
	t.Helper()
	var timing func(*Timing)
	if snapshots {
		timing = eagerSnapshots
	}
	cluster := startCluster(t, 3, func(c *instanceConfig) {
		c.open, c.backend, c.timing = backend.Open, backend.Name, timing
	})
	var last domain.Change
	for n := range 40 {
		last = register(t, cluster[0], fmt.Sprintf("node-%d", n))
	}
	kept := cluster[1]
	kept.waitForRevision(t, last.Revision)
	if snapshots {
		if err := kept.makeSnapshot(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			t.Fatal(err)
		}
	}
	s := survivor{dir: kept.config.Directory, id: kept.config.ID, address: kept.raftAddress(), backend: backend}
	for _, i := range cluster {
		i.stop(t)
	}
	s.state, _ = kept.State()
	return s, last
}

func (s survivor) alone() domain.Instance {
	return domain.Instance{ID: s.id, RaftAddress: s.address, Suffrage: domain.Voter}
}

func (s survivor) recover(t *testing.T, to domain.Instance, backend logstore.Backend) error {
	t.Helper()
	directory, err := logstore.ClaimExisting(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(Recover(Recovery{Directory: directory, Backend: backend, Self: to, Logger: slog.New(slog.DiscardHandler)}), directory.Close())
}

func (s survivor) start(t *testing.T) *instance {
	t.Helper()
	return start(t, instanceConfig{id: s.id, directory: s.dir, address: s.address, open: s.backend.Open, backend: s.backend.Name})
}

// mustGoOnAlone starts the instance, and fails the test unless it leads a cluster of its own
// with the state that it had.
func (s survivor) mustGoOnAlone(t *testing.T) *instance {
	t.Helper()
	i := s.start(t)
	i.eventually(t, "leading", leading)
	view, err := i.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the registry", domaintest.ContentsOf(view), domaintest.ContentsOf(s.state.View))
	now, _ := i.State()
	mustEqual(t, "the cluster's id", now.ClusterID, s.state.ClusterID)
	mustEqual(t, "the membership", now.Roster.Instances(), []domain.Instance{s.alone()})
	return i
}

// Raft itself recovers nothing if there are snapshots but it can load none of them.
func TestARecoveryDoesWithoutASnapshotThatTheLogMakesUpFor(t *testing.T) {
	for name, spoil := range spoilSnapshots {
		t.Run(name, func(t *testing.T) {
			alone, _ := aloneWithASnapshot(t)
			state, _ := alone.State()
			s := survivor{dir: alone.config.Directory, id: alone.config.ID, address: alone.raftAddress(), backend: durableBackends[0], state: state}
			spoil(harm{t, s.dir, inspectDirectory(t, s.dir, s.backend)})
			if err := s.recover(t, s.alone(), s.backend); err != nil {
				t.Fatal(err)
			}
			if after := inspectDirectory(t, s.dir, s.backend); !after.Recovered(s.alone()) {
				t.Errorf("report after Recover = %+v, want it recovered", after)
			}
			s.mustGoOnAlone(t)
		})
	}
}

func TestTheRecoveredInstanceGoesOnAlone(t *testing.T) {
	for _, backend := range durableBackends {
		for name, snapshots := range map[string]bool{"with a log": false, "with snapshots": true} {
			t.Run(backend.Name+" "+name, func(t *testing.T) {
				s, last := stoppedCluster(t, backend, snapshots)
				before := inspectDirectory(t, s.dir, backend)
				if before.Recovered(s.alone()) {
					t.Error("Recovered = true before the recovery")
				}
				if err := s.recover(t, s.alone(), backend); err != nil {
					t.Fatal(err)
				}
				after := inspectDirectory(t, s.dir, backend)
				if len(after.Faults) > 0 || !after.Recovered(s.alone()) {
					t.Errorf("report after Recover = %+v, want it sound and recovered", after)
				}
				if _, err := os.Stat(filepath.Join(s.dir, peersName)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("list of peers after Recover: %v, want it removed", err)
				}
				if after.Revision != last.Revision || after.Term != before.Term || after.VotedFor != before.VotedFor ||
					after.ReachIndex != before.ReachIndex || after.ReachTerm != before.ReachTerm {
					t.Errorf("report before = %+v, after = %+v, want the same log and state", before, after)
				}
				i := s.mustGoOnAlone(t)
				next := register(t, i, "later")
				if next.Revision != last.Revision+1 {
					t.Errorf("next revision = %d, want the one after %d", next.Revision, last.Revision)
				}
				fresh := start(t, instanceConfig{id: "fresh", directory: t.TempDir(), open: backend.Open, backend: backend.Name})
				addVoter(t, i, fresh)
				fresh.waitForRevision(t, next.Revision)
				fresh.eventually(t, "a member", func(s ports.LocalState) bool { return len(s.Roster.Instances()) == 2 })
				want, _ := i.State()
				got, _ := fresh.State()
				mustHoldTheSame(t, got, want)
				// Now a commit takes both.
				register(t, i, "last")
			})
		}
	}
}

func TestADirectoryCountsAsRecoveredUntilItChanges(t *testing.T) {
	self := domain.Instance{ID: "n1", RaftAddress: "n1:1", Suffrage: domain.Voter}
	for name, change := range map[string]func(*Report){
		"in quarantine":           func(r *Report) { r.Quarantine = "of a test" },
		"with a log":              func(r *Report) { r.LastIndex = 9 },
		"with a later membership": func(r *Report) { r.RosterIndex++ },
		"with other members":      func(r *Report) { r.Roster = domain.NewRoster(self, nonvoter("n2")) },
		"damaged":                 func(r *Report) { r.Faults = []Fault{{What: codec.ErrChecksum}} },
	} {
		r := Report{Roster: domain.NewRoster(self), RosterIndex: recoveredIndex}
		if !r.Recovered(self) {
			t.Error("Recovered = false for a directory as a recovery leaves it, want true")
		}
		if change(&r); r.Recovered(self) {
			t.Errorf("Recovered = true for a directory %s, want false", name)
		}
	}
}

func TestARecoveryMayBeDoneAgain(t *testing.T) {
	s, _ := stoppedCluster(t, durableBackends[0], false)
	for range 3 {
		if err := s.recover(t, s.alone(), s.backend); err != nil {
			t.Fatal(err)
		}
	}
	i := s.mustGoOnAlone(t)
	register(t, i, "later")
	i.stop(t)
	s.state, _ = i.State()
	if r := inspectDirectory(t, s.dir, s.backend); r.Recovered(s.alone()) {
		t.Error("Recovered = true after the instance has gone on")
	}
	// Recover again after the instance has gone on.
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	s.mustGoOnAlone(t)
}

func TestALoneVoterMayMoveWhileItIsStopped(t *testing.T) {
	i := start(t, instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading", leading)
	register(t, i, "a")
	i.stop(t)
	// This is another address, at which the instance can be reached after the move.
	elsewhere := start(t, instanceConfig{id: "n2", directory: t.TempDir()})
	s := survivor{dir: i.config.Directory, id: "n1", address: elsewhere.raftAddress(), backend: durableBackends[0]}
	elsewhere.stop(t)
	s.state, _ = i.State()
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	register(t, s.mustGoOnAlone(t), "b")
}

var errStopped = errors.New("stopped here")

// stoppingBackend is a backend with which a recovery fails before it removes the log.
func stoppingBackend(b logstore.Backend) logstore.Backend {
	open := b.Open
	b.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := open(dir, logger)
		return uncutStore{store}, err
	}
	return b
}

type uncutStore struct{ logstore.Store }

func (uncutStore) DeleteRange(uint64, uint64) error { return errStopped }

func TestARecoveryThatStopsBeforeTheLogIsRemoved(t *testing.T) {
	for _, backend := range durableBackends {
		t.Run(backend.Name, func(t *testing.T) {
			s, _ := stoppedCluster(t, backend, false)
			before := inspectDirectory(t, s.dir, backend)
			if err := s.recover(t, s.alone(), stoppingBackend(backend)); err == nil || !strings.Contains(err.Error(), errStopped.Error()) {
				t.Fatalf("Recover = %v, want errStopped", err)
			}
			between := inspectDirectory(t, s.dir, backend)
			if len(between.Faults) > 0 || between.FirstIndex != before.FirstIndex || between.LastIndex != before.LastIndex ||
				between.Recovered(s.alone()) || !between.Roster.Equal(domain.NewRoster(s.alone())) {
				t.Errorf("report of the unfinished recovery = %+v, want the whole log with the new membership", between)
			}
			copied := s
			copied.dir = t.TempDir()
			if err := os.CopyFS(copied.dir, os.DirFS(s.dir)); err != nil {
				t.Fatal(err)
			}
			// The unfinished recovery would start too.
			copied.mustGoOnAlone(t).stop(t)
			if err := s.recover(t, s.alone(), backend); err != nil {
				t.Fatal(err)
			}
			s.mustGoOnAlone(t)
		})
	}
}

// An old directory that is started in spite of the recovery must get no vote from the
// recovered instance.
func TestAFormerMemberDoesNotDisturbTheRecoveredCluster(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	last := register(t, cluster[0], "a")
	cluster[1].waitForRevision(t, last.Revision)
	for _, i := range cluster {
		i.stop(t)
	}
	s := survivor{dir: cluster[1].config.Directory, id: cluster[1].config.ID, address: cluster[1].raftAddress(), backend: durableBackends[0]}
	s.state, _ = cluster[1].State()
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	i := s.mustGoOnAlone(t)
	old := restart(t, cluster[2], nil)
	until(t, "the old member stands for election", func() bool { return old.raft.State() == raft.Candidate })
	register(t, i, "b")
	if state, _ := old.State(); state.Leading || state.LeaderID != "" {
		t.Errorf("state of the old member = %+v, want no leader", state)
	}
}

func TestRecoverWithoutTheNewestSnapshot(t *testing.T) {
	dir, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, dir, durableBackends[0])
	harm{t, dir, before}.flip(filepath.Join(dir, "snapshots", before.Snapshots[0].ID, "state.bin"), 40)
	damaged := inspectDirectory(t, dir, durableBackends[0])
	if !damaged.Sound() || damaged.Revision != before.Revision {
		t.Fatalf("report = %+v, want it sound: the log makes up for the snapshot", damaged)
	}
	s := survivor{dir: dir, id: "n1", address: before.VotedFor, backend: durableBackends[0]}
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	after := inspectDirectory(t, dir, durableBackends[0])
	if !after.Sound() || after.Revision != before.Revision || !after.Recovered(s.alone()) {
		t.Errorf("report after Recover = %+v, want it sound and recovered", after)
	}
}

func TestRecoverRefuses(t *testing.T) {
	intact, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, intact, durableBackends[0])
	tests := map[string]struct {
		happens func(h harm)
		says    string
	}{
		"a snapshot from the future, which would be taken for the newest": {
			happens: func(h harm) {
				meta := h.r.Snapshots[0]
				id := fmt.Sprintf("%d-%d-%d", meta.Term, meta.Index, time.Now().Add(time.Hour).UnixMilli())
				h.describe(0, func(f *description) { f.ID = id })
				if err := os.Rename(h.snapshot(0, ""), filepath.Join(h.dir, "snapshots", id)); err != nil {
					h.t.Fatal(err)
				}
			}, says: "set the clock"},
		"an entry that can't be applied": {
			happens: func(h harm) { h.entry(h.r.LastIndex, func(e *raft.Log) { e.Data[5] ^= 1 }) },
			says:    "checksum mismatch"},
		"an entry that is missing": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error { return s.DeleteRange(h.r.LastIndex-1, h.r.LastIndex-1) })
			}, says: "log not found"},
		"a log that can't be opened": {
			happens: func(h harm) {
				if err := os.Truncate(filepath.Join(h.dir, "log.bolt"), 9000); err != nil {
					h.t.Fatal(err)
				}
			}, says: "log.bolt"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := survivor{dir: t.TempDir(), id: "n1", address: before.VotedFor, backend: durableBackends[0]}
			if err := os.CopyFS(s.dir, os.DirFS(intact)); err != nil {
				t.Fatal(err)
			}
			test.happens(harm{t, s.dir, before})
			damaged := inspectDirectory(t, s.dir, s.backend)
			if err := s.recover(t, s.alone(), s.backend); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Recover = %v, want an error with %q", err, test.says)
			}
			mustEqual(t, "the report after a refusal", inspectDirectory(t, s.dir, s.backend), damaged)
		})
	}
}

// The log is removed only when the snapshot that replaces it is proven to be readable.
func TestALogIsNotRemovedForASnapshotThatIsNotThere(t *testing.T) {
	s, _ := stoppedCluster(t, durableBackends[0], true)
	before := inspectDirectory(t, s.dir, s.backend)
	folder := filepath.Join(s.dir, "snapshots")
	spoilt := s.backend
	spoilt.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := s.backend.Open(dir, logger)
		return spoilingStore{store, func() {
			found, _ := filepath.Glob(filepath.Join(folder, "*"))
			for _, path := range found {
				if filepath.Base(path) != before.Snapshots[0].ID {
					harm{t, s.dir, before}.flip(filepath.Join(path, "state.bin"), 20)
				}
			}
		}}, err
	}
	if err := s.recover(t, s.alone(), spoilt); err == nil || !strings.Contains(err.Error(), "snapshot with the new membership") {
		t.Errorf("Recover = %v, want that the snapshot with the new membership is damaged", err)
	}
	after := inspectDirectory(t, s.dir, s.backend)
	if after.FirstIndex != before.FirstIndex || after.LastIndex != before.LastIndex || after.Revision != before.Revision {
		t.Errorf("report before = %+v, after = %+v, want the same log and state", before, after)
	}
}

// spoilingStore damages the snapshot that a recovery has made just before it removes the
// log: the recovery then asks once more where the log begins.
type spoilingStore struct {
	logstore.Store
	spoil func()
}

func (s spoilingStore) FirstIndex() (uint64, error) {
	s.spoil()
	return s.Store.FirstIndex()
}
