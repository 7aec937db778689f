package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// damageLastEntry stops i, whose last entry must be a command, and damages that entry.
func damageLastEntry(t *testing.T, i *instance) {
	t.Helper()
	last := i.raft.LastIndex()
	i.stop(t)
	harm{t: t, dir: i.config.Directory}.entry(last, func(entry *raft.Log) { entry.Data[3] ^= 0x20 })
}

func foldersSetAside(t *testing.T, i *instance) []string {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(i.config.Directory, "damaged-*"))
	if err != nil {
		t.Fatal(err)
	}
	return folders
}

func TestADamagedInstanceGetsEverythingFromTheOthers(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, damaged := cluster[0], cluster[2]
	leader.runPromotions(t)
	change := register(t, leader, "a")
	// Repeated, to see that the data that is set aside does not pile up.
	for range 5 {
		damaged.waitForRevision(t, change.Revision)
		damageLastEntry(t, damaged)
		damaged = restart(t, damaged, nil)
		state, _ := damaged.State()
		if state.ClusterID == "" || !strings.Contains(state.Quarantine, "damaged-") {
			t.Errorf("state at the start = %+v, want a cluster and quarantine", state)
		}
		damaged.eventually(t, "a voter out of quarantine", func(s ports.LocalState) bool {
			self, _ := s.Roster.Find(damaged.config.ID)
			return s.Quarantine == "" && self.Suffrage == domain.Voter
		})
		change = register(t, leader, "a")
		change = register(t, leader, "b")
		if _, err := leader.Propose(within(t), domain.Deregister{ID: "b"}); err != nil {
			t.Fatal(err)
		}
	}
	if folders := foldersSetAside(t, damaged); len(folders) != 3 {
		t.Errorf("folders set aside = %q, want 3", folders)
	}
}

// If a majority is damaged, no write may be lost or invented: the cluster waits.
func TestAMajorityThatIsDamagedWaits(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	register(t, cluster[0], "a")
	for _, i := range cluster {
		i.waitForRevision(t, 1)
	}
	cluster[0].stop(t)
	damageLastEntry(t, cluster[1])
	damageLastEntry(t, cluster[2])
	whole := restart(t, cluster[0], nil)
	damaged := []*instance{restart(t, cluster[1], nil), restart(t, cluster[2], nil)}
	until(t, "the damaged instances were asked for votes", func() bool { return damaged[0].refused() >= 3 && damaged[1].refused() >= 3 })
	for _, i := range append(damaged, whole) {
		if state, _ := i.State(); state.Leading || state.LeaderID != "" {
			t.Errorf("state of %s = %+v, want no leader", i.config.ID, state)
		}
	}
	for _, i := range damaged {
		if len(foldersSetAside(t, i)) != 1 {
			t.Errorf("%s has not kept its damaged data", i.config.ID)
		}
	}
}

// The instance must not count as blank, and must not found a cluster again.
func TestADamagedInstanceThatIsAloneDoesNotStart(t *testing.T) {
	alone := startCluster(t, 1, nil)[0]
	register(t, alone, "a")
	until(t, "the instance has stored that it is alone", func() bool { return alone.wasAlone() })
	damageLastEntry(t, alone)
	for _, bootstrap := range []bool{false, true} {
		i := newInstance(t, instanceConfig{id: alone.config.ID, directory: alone.config.Directory, bootstrap: bootstrap})
		err := errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context()))
		if err == nil || !strings.Contains(err.Error(), "storage check") || !errors.Is(err, codec.ErrChecksum) {
			t.Errorf("Open = %v, want an error that names storage check", err)
		}
		i.stop(t)
		if len(foldersSetAside(t, i)) > 0 {
			t.Error("data that no other instance has was set aside")
		}
	}
}

// The instance would wait for other members, which do not exist.
func TestAnInstanceThatIsAloneAndHasLostItsLogDoesNotStart(t *testing.T) {
	alone := startCluster(t, 1, nil)[0]
	until(t, "the instance has stored that it is alone", func() bool { return alone.wasAlone() })
	alone.stop(t)
	harm{t: t, dir: alone.config.Directory}.remove(filepath.Join(alone.config.Directory, "log.bolt"))
	for _, bootstrap := range []bool{false, true} {
		i := newInstance(t, instanceConfig{id: alone.config.ID, directory: alone.config.Directory, bootstrap: bootstrap})
		err := errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context()))
		if err == nil || !strings.Contains(err.Error(), "it is empty") || !strings.Contains(err.Error(), "storage check") {
			t.Errorf("Open = %v, want a refusal", err)
		}
		i.stop(t)
	}
}

// A wrong bit in the cluster id of instance.json must not make an instance set aside all its
// data, and wait for a cluster that does not exist.
func TestAnInstanceOfTwoClustersDoesNotStart(t *testing.T) {
	for name, snapshot := range map[string]bool{"with a log": false, "with a snapshot": true} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 2, nil)
			leader, damaged := cluster[0], cluster[1]
			change := register(t, leader, "a")
			damaged.waitForRevision(t, change.Revision)
			until(t, "the instance has stored its list of peers", func() bool { return damaged.hasPeers() })
			if snapshot {
				if err := damaged.raft.Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
			}
			damaged.stop(t)
			manifest := filepath.Join(damaged.config.Directory, "instance.json")
			intact, err := os.ReadFile(manifest)
			if err != nil {
				t.Fatal(err)
			}
			right := leader.state.read().ClusterID
			harm{t: t, dir: damaged.config.Directory}.replace(manifest, right, "another")
			before := namesIn(t, damaged.config.Directory)

			i := newInstance(t, instanceConfig{id: damaged.config.ID, directory: damaged.config.Directory})
			err = errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context()))
			i.stop(t)
			if !errors.Is(err, errTwoClusters) || !strings.Contains(err.Error(), right) || !strings.Contains(err.Error(), "instance.json") {
				t.Errorf("Open = %v, want %v naming %s and instance.json", err, errTwoClusters, right)
			}
			mustEqual(t, "the names in the directory", namesIn(t, damaged.config.Directory), before)
			if err := os.WriteFile(manifest, intact, 0o600); err != nil {
				t.Fatal(err)
			}
			damaged = restart(t, damaged, nil)
			damaged.waitForRevision(t, register(t, leader, "b").Revision)
		})
	}
}

// aloneWithASnapshot returns a stopped instance that is a cluster by itself, and has a
// snapshot and its whole log.
func aloneWithASnapshot(t *testing.T) (i *instance, last domain.Change) {
	t.Helper()
	i = startCluster(t, 1, nil)[0]
	for n := range 40 {
		register(t, i, fmt.Sprintf("node-%d", n))
	}
	if err := i.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	last = register(t, i, "last")
	i.stop(t)
	return i, last
}

// spoilSnapshots are ways to damage all snapshots of an instance that is alone.
var spoilSnapshots = map[string]func(harm){
	"a bit of the state is wrong":       func(h harm) { h.flip(h.snapshot(0, "state.bin"), 30) },
	"the state is missing":              func(h harm) { h.remove(h.snapshot(0, "state.bin")) },
	"the state is truncated":            func(h harm) { h.truncate(h.snapshot(0, "state.bin"), 100) },
	"a bit of the description is wrong": func(h harm) { h.flip(h.snapshot(0, "meta.json"), 30) },
}

// Raft itself does not start if there are snapshots but it can load none of them.
func TestAnInstanceStartsWithoutASnapshotThatItsLogMakesUpFor(t *testing.T) {
	for name, spoil := range spoilSnapshots {
		t.Run(name, func(t *testing.T) {
			alone, last := aloneWithASnapshot(t)
			before, _ := alone.State()
			dir := alone.config.Directory
			h := harm{t, dir, inspectDirectory(t, dir, durableBackends[0])}
			spoil(h)
			spoilt := filepath.Dir(h.snapshot(0, "state.bin"))
			for range 2 {
				alone = restart(t, alone, nil)
				alone.eventually(t, "leading", leading)
				alone.waitForRevision(t, last.Revision)
				after, _ := alone.State()
				mustHoldTheSame(t, after, before)
				if _, err := os.Stat(spoilt); err != nil {
					t.Errorf("damaged snapshot: %v, want it kept while it is one of the latest", err)
				}
				alone.stop(t)
			}
			alone = restart(t, alone, nil)
			alone.eventually(t, "leading", leading)
			for n := range snapshots.Retained + 1 {
				register(t, alone, fmt.Sprintf("more-%d", n))
				if err := alone.raft.Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(spoilt); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("damaged snapshot: %v, want it removed once there are newer ones", err)
			}
		})
	}
}

// Entries that the newest snapshot covers are sent to followers as long as they are in the
// log.
func TestALeaderSendsNoEntryThatWasFoundDamaged(t *testing.T) {
	leader, last := aloneWithASnapshot(t)
	h := harm{t, leader.config.Directory, inspectDirectory(t, leader.config.Directory, durableBackends[0])}
	base := h.r.Snapshots[0].Index
	for _, index := range []uint64{13, base} {
		h.entry(index, func(entry *raft.Log) { entry.Data[3] ^= 0x20 })
		leader = restart(t, leader, nil)
		leader.eventually(t, "leading", leading)
		if first, err := leader.store.FirstIndex(); first != index+1 || err != nil {
			t.Errorf("FirstIndex = %d, %v, want the index behind the damaged entry", first, err)
		}
		joining := start(t, instanceConfig{id: fmt.Sprintf("joining-%d", index), directory: t.TempDir()})
		if err := leader.Add(within(t), domain.Instance{ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: domain.Nonvoter}); err != nil {
			t.Fatal(err)
		}
		joining.waitForRevision(t, last.Revision)
		leader.stop(t)
		joining.stop(t)
		if faults := inspectDirectory(t, leader.config.Directory, durableBackends[0]).Faults; len(faults) > 0 {
			t.Errorf("faults after healing = %v, want none", faults)
		}
	}
}

// Entries that a snapshot covers must stay until the snapshot's folder is durable; here the
// folder disappears before that.
func TestADamagedEntryStaysWhileItsSnapshotMayBeLost(t *testing.T) {
	alone, _ := aloneWithASnapshot(t)
	dir := alone.config.Directory
	harm{t: t, dir: dir}.entry(13, func(entry *raft.Log) { entry.Data[3] ^= 0x20 })
	folder := filepath.Join(dir, logstore.SnapshotsFolder)
	i := newInstance(t, instanceConfig{id: alone.config.ID, directory: dir, backend: "bolt", open: func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := bolt.Open(dir, logger)
		return hookedStore{store, 13, func() { _ = os.Rename(folder, folder+"-elsewhere") }}, err
	}})
	err := errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context()))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, want a refusal", err)
	}
	i.stop(t)
	harm{t: t, dir: dir}.store(func(s logstore.Store) error {
		first, err := s.FirstIndex()
		if first > 13 {
			t.Errorf("FirstIndex = %d, want at most 13: the damaged entry must stay", first)
		}
		return err
	})
}

// hookedStore is a store that calls read before it returns a certain entry.
type hookedStore struct {
	logstore.Store
	entry uint64
	read  func()
}

func (t hookedStore) GetLog(index uint64, log *raft.Log) error {
	if index == t.entry {
		t.read()
	}
	return t.Store.GetLog(index, log)
}

// unreadStore is a store with an I/O error for one entry, or one key.
type unreadStore struct {
	logstore.Store
	entry uint64
	key   string
}

var errUnread = &fs.PathError{Op: "read", Path: "log.bolt", Err: syscall.EIO}

func (u unreadStore) GetLog(index uint64, log *raft.Log) error {
	if index == u.entry {
		return errUnread
	}
	return u.Store.GetLog(index, log)
}

func (u unreadStore) GetUint64(key []byte) (uint64, error) {
	if string(key) == u.key {
		return 0, errUnread
	}
	return u.Store.GetUint64(key)
}

// Data that can't be read at the moment may be intact, on every voter. So it must neither be
// set aside nor ignored.
func TestAReadErrorIsNotTakenForDamage(t *testing.T) {
	cluster := startCluster(t, 2, func(config *instanceConfig) { config.timing = longTimeouts })
	leader, victim := cluster[0], cluster[1]
	change := register(t, leader, "a")
	victim.waitForRevision(t, change.Revision)
	until(t, "the instance has stored its list of peers", func() bool { return victim.hasPeers() })
	if err := victim.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	victim.stop(t)
	dir := victim.config.Directory
	found := inspectDirectory(t, dir, durableBackends[0])
	snapshot := filepath.Join(dir, "snapshots", found.Snapshots[0].ID)
	// A folder or a symlink to itself in place of a file can be found, but not opened or
	// read.
	symlink := func(path string) error { return os.Symlink(filepath.Base(path), path) }
	folder := func(path string) error { return os.Mkdir(path, 0o700) }
	for name, test := range map[string]struct {
		path string
		put  func(path string) error
		open func(logstore.Store) logstore.Store
	}{
		"the log file":                    {path: filepath.Join(dir, "log.bolt"), put: folder},
		"the folder of the snapshots":     {path: filepath.Join(dir, "snapshots"), put: symlink},
		"a snapshot's description":        {path: filepath.Join(snapshot, "meta.json"), put: folder},
		"a snapshot's state":              {path: filepath.Join(snapshot, "state.bin"), put: folder},
		"the mark of the quarantine":      {path: filepath.Join(dir, quarantineName), put: folder},
		"an entry":                        {open: func(s logstore.Store) logstore.Store { return unreadStore{s, found.LastIndex, ""} }},
		"an entry that a snapshot covers": {open: func(s logstore.Store) logstore.Store { return unreadStore{s, found.FirstIndex, ""} }},
		"the term":                        {open: func(s logstore.Store) logstore.Store { return unreadStore{s, 0, "CurrentTerm"} }},
	} {
		t.Run(name, func(t *testing.T) {
			aside := filepath.Join(t.TempDir(), "aside")
			if test.put != nil {
				_ = os.Rename(test.path, aside) // there may be none
				if err := test.put(test.path); err != nil {
					t.Fatal(err)
				}
			}
			before := namesIn(t, dir)
			i := newInstance(t, instanceConfig{id: victim.config.ID, directory: dir, backend: "bolt",
				open: func(dir string, logger *slog.Logger) (logstore.Store, error) {
					store, err := bolt.Open(dir, logger)
					if err == nil && test.open != nil {
						store = test.open(store)
					}
					return store, err
				}})
			err := errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context()))
			i.stop(t)
			if !logstore.IsRefusal(err) || errors.Is(err, logstore.ErrDamaged) || strings.Contains(err.Error(), "damaged") {
				t.Errorf("Open = %v, want a refusal that is no damage", err)
			}
			mustEqual(t, "the names in the directory", namesIn(t, dir), before)
			if test.put != nil {
				if err := os.Remove(test.path); err != nil {
					t.Fatal(err)
				}
				_ = os.Rename(aside, test.path)
			}
			if r := inspectDirectory(t, dir, durableBackends[0]); len(r.Faults) > 0 || r.FirstIndex != found.FirstIndex || r.Quarantine != "" {
				t.Errorf("report of the directory = %+v, want it unchanged", r)
			}
		})
	}
	victim = restart(t, victim, nil)
	victim.waitForRevision(t, register(t, leaderOf(t, []*instance{leader, victim}), "b").Revision)
}

// An entry that is damaged while the instance runs is sent to no follower.
func TestADamagedEntryIsNotGiven(t *testing.T) {
	store, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	data := codec.EncodeEntry(codec.Opening{ClusterID: "c"})
	data[2] ^= 1
	if err := store.StoreLogs([]*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogNoop},
		{Index: 2, Term: 1, Type: raft.LogCommand, Data: codec.EncodeEntry(codec.Opening{ClusterID: "c"})},
		{Index: 3, Term: 1, Type: raft.LogCommand, Data: data},
	}); err != nil {
		t.Fatal(err)
	}
	log := disk.New(store, disk.Config{HangAfter: patience, Verify: verifyLog})
	var entry raft.Log
	for index := uint64(1); index <= 2; index++ {
		if err := log.GetLog(index, &entry); err != nil {
			t.Errorf("GetLog(%d) = %v, want success", index, err)
		}
	}
	if err := log.GetLog(4, &entry); err != raft.ErrLogNotFound {
		t.Errorf("GetLog of a missing entry = %v, want ErrLogNotFound", err)
	}
	if err := log.GetLog(3, &entry); !errors.Is(err, codec.ErrChecksum) {
		t.Errorf("GetLog of a damaged entry = %v, want ErrChecksum", err)
	}
}

func TestDamageIsToldFromOtherErrors(t *testing.T) {
	if !errors.Is(bolt.ErrDamaged, logstore.ErrDamaged) {
		t.Error("bolt.ErrDamaged does not match logstore.ErrDamaged")
	}
}
