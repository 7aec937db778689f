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

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// survivor is the directory of one of three instances, none of which runs, with
// what it has.
type survivor struct {
	dir, id, address string
	backend          logstore.Backend
	state            ports.LocalState
}

// bereaved stops a whole cluster, and keeps the directory of one that followed.
func bereaved(t *testing.T, backend logstore.Backend, snapshots bool) (survivor, domain.Change) {
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

// goesOn starts the instance, and fails the test unless it leads a cluster of its
// own with everything that it had.
func (s survivor) goesOn(t *testing.T) *instance {
	t.Helper()
	i := s.start(t)
	i.eventually(t, "leading", leading)
	view, err := i.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the registry", contentsOf(view), contentsOf(s.state.View))
	now, _ := i.State()
	mustEqual(t, "the cluster's id", now.ClusterID, s.state.ClusterID)
	mustEqual(t, "the membership", now.Roster.Instances(), []domain.Instance{s.alone()})
	return i
}

// Raft does not recover where it can load none of the snapshots that there are.
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
				t.Errorf("the directory is not recovered: %+v", after)
			}
			s.goesOn(t)
		})
	}
}

func TestTheRecoveredInstanceGoesOnAlone(t *testing.T) {
	for _, backend := range durableBackends {
		for name, snapshots := range map[string]bool{"with a log": false, "with snapshots": true} {
			t.Run(backend.Name+" "+name, func(t *testing.T) {
				s, last := bereaved(t, backend, snapshots)
				before := inspectDirectory(t, s.dir, backend)
				if before.Recovered(s.alone()) {
					t.Error("Recovered = true before the recovery")
				}
				if err := s.recover(t, s.alone(), backend); err != nil {
					t.Fatal(err)
				}
				after := inspectDirectory(t, s.dir, backend)
				if len(after.Faults) > 0 || !after.Recovered(s.alone()) {
					t.Errorf("afterwards: %+v", after)
				}
				if _, err := os.Stat(filepath.Join(s.dir, peersName)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the others are still kept beside the log: %v", err)
				}
				if after.Revision != last.Revision || after.Term != before.Term || after.VotedFor != before.VotedFor ||
					after.ReachIndex != before.ReachIndex || after.ReachTerm != before.ReachTerm {
					t.Errorf("from %+v to %+v", before, after)
				}
				i := s.goesOn(t)
				next := register(t, i, "later")
				if next.Revision != last.Revision+1 {
					t.Errorf("the next revision is %d, after %d", next.Revision, last.Revision)
				}
				fresh := start(t, instanceConfig{id: "fresh", directory: t.TempDir(), open: backend.Open, backend: backend.Name})
				admit(t, i, fresh)
				fresh.waitForRevision(t, next.Revision)
				fresh.eventually(t, "a member", func(s ports.LocalState) bool { return len(s.Roster.Instances()) == 2 })
				want, _ := i.State()
				got, _ := fresh.State()
				mustHoldTheSame(t, got, want)
				// Now it takes both.
				register(t, i, "last")
			})
		}
	}
}

func TestADirectoryIsRecoveredAsLongAsItIsAsThatLeftIt(t *testing.T) {
	self := domain.Instance{ID: "n1", RaftAddress: "n1:1", Suffrage: domain.Voter}
	for name, change := range map[string]func(*Report){
		"it is in quarantine":       func(r *Report) { r.Quarantine = "of a test" },
		"it has a log":              func(r *Report) { r.LastIndex = 9 },
		"its membership is a later": func(r *Report) { r.RosterIndex++ },
		"there are others":          func(r *Report) { r.Roster = domain.NewRoster(self, nonvoter("n2")) },
		"it is damaged":             func(r *Report) { r.Faults = []Fault{{What: errChecksum}} },
	} {
		r := Report{Roster: domain.NewRoster(self), RosterIndex: recoveredIndex}
		if !r.Recovered(self) {
			t.Error("as it was left, it is not called recovered")
		}
		if change(&r); r.Recovered(self) {
			t.Errorf("%s, and it is called recovered", name)
		}
	}
}

func TestARecoveryMayBeDoneAgain(t *testing.T) {
	s, _ := bereaved(t, durableBackends[0], false)
	for range 3 {
		if err := s.recover(t, s.alone(), s.backend); err != nil {
			t.Fatal(err)
		}
	}
	i := s.goesOn(t)
	register(t, i, "later")
	i.stop(t)
	s.state, _ = i.State()
	if r := inspectDirectory(t, s.dir, s.backend); r.Recovered(s.alone()) {
		t.Error("Recovered = true after the instance has gone on")
	}
	// Again, after it has gone on.
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	s.goesOn(t)
}

func TestALoneVoterMayMoveWhileItIsStopped(t *testing.T) {
	i := start(t, instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading", leading)
	register(t, i, "a")
	i.stop(t)
	// Somewhere else, where it can be reached after the move.
	elsewhere := start(t, instanceConfig{id: "n2", directory: t.TempDir()})
	s := survivor{dir: i.config.Directory, id: "n1", address: elsewhere.raftAddress(), backend: durableBackends[0]}
	elsewhere.stop(t)
	s.state, _ = i.State()
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	register(t, s.goesOn(t), "b")
}

var errStopped = errors.New("stopped here")

// stopsAt is a backend that stops before a recovery removes the log.
func stopsAt(b logstore.Backend) logstore.Backend {
	open := b.Open
	b.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := open(dir, logger)
		return neverCut{store}, err
	}
	return b
}

type neverCut struct{ logstore.Store }

func (neverCut) DeleteRange(uint64, uint64) error { return errStopped }

func TestARecoveryThatStopsBeforeTheLogIsRemoved(t *testing.T) {
	for _, backend := range durableBackends {
		t.Run(backend.Name, func(t *testing.T) {
			s, _ := bereaved(t, backend, false)
			before := inspectDirectory(t, s.dir, backend)
			if err := s.recover(t, s.alone(), stopsAt(backend)); err == nil || !strings.Contains(err.Error(), errStopped.Error()) {
				t.Fatalf("Recover: %v", err)
			}
			between := inspectDirectory(t, s.dir, backend)
			if len(between.Faults) > 0 || between.FirstIndex != before.FirstIndex || between.LastIndex != before.LastIndex ||
				between.Recovered(s.alone()) || !between.Roster.Equal(domain.NewRoster(s.alone())) {
				t.Errorf("in between: %+v", between)
			}
			copied := s
			copied.dir = t.TempDir()
			if err := os.CopyFS(copied.dir, os.DirFS(s.dir)); err != nil {
				t.Fatal(err)
			}
			// It would start as it is.
			copied.goesOn(t).stop(t)
			if err := s.recover(t, s.alone(), backend); err != nil {
				t.Fatal(err)
			}
			s.goesOn(t)
		})
	}
}

// An old directory that is started after all gets no vote of the one that went on.
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
	i := s.goesOn(t)
	old := restart(t, cluster[2], nil)
	until(t, "the old one stands for election", func() bool { return old.raft.State() == raft.Candidate })
	register(t, i, "b")
	if state, _ := old.State(); state.Leading || state.LeaderID != "" {
		t.Errorf("the old one has a leader: %+v", state)
	}
}

func TestRecoverWithoutTheNewestSnapshot(t *testing.T) {
	dir, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, dir, durableBackends[0])
	harm{t, dir, before}.flip(filepath.Join(dir, "snapshots", before.Snapshots[0].ID, "state.bin"), 40)
	damaged := inspectDirectory(t, dir, durableBackends[0])
	if !damaged.Sound() || damaged.Revision != before.Revision {
		t.Fatalf("the log does not make up for it: %+v", damaged)
	}
	s := survivor{dir: dir, id: "n1", address: before.VotedFor, backend: durableBackends[0]}
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	after := inspectDirectory(t, dir, durableBackends[0])
	if !after.Sound() || after.Revision != before.Revision || !after.Recovered(s.alone()) {
		t.Errorf("afterwards: %+v", after)
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
				h.describe(0, func(f *snapshotDescription) { f.ID = id })
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
				t.Errorf("Recover: %v, want it to say %q", err, test.says)
			}
			mustEqual(t, "what is there", inspectDirectory(t, s.dir, s.backend), damaged)
		})
	}
}

// The log is removed only when the snapshot that takes its place is proven.
func TestALogIsNotRemovedForASnapshotThatIsNotThere(t *testing.T) {
	s, _ := bereaved(t, durableBackends[0], true)
	before := inspectDirectory(t, s.dir, s.backend)
	folder := filepath.Join(s.dir, "snapshots")
	spoilt := s.backend
	spoilt.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := s.backend.Open(dir, logger)
		return spoiling{store, func() {
			found, _ := filepath.Glob(filepath.Join(folder, "*"))
			for _, path := range found {
				if filepath.Base(path) != before.Snapshots[0].ID {
					harm{t, s.dir, before}.flip(filepath.Join(path, "state.bin"), 20)
				}
			}
		}}, err
	}
	if err := s.recover(t, s.alone(), spoilt); err == nil || !strings.Contains(err.Error(), "snapshot with the new membership") {
		t.Errorf("Recover: %v", err)
	}
	after := inspectDirectory(t, s.dir, s.backend)
	if after.FirstIndex != before.FirstIndex || after.LastIndex != before.LastIndex || after.Revision != before.Revision {
		t.Errorf("from %+v to %+v", before, after)
	}
}

// spoiling spoils the snapshot that a recovery has made when it is about to remove
// the log: its bounds are asked for once more then.
type spoiling struct {
	logstore.Store
	spoil func()
}

func (s spoiling) FirstIndex() (uint64, error) {
	s.spoil()
	return s.Store.FirstIndex()
}
