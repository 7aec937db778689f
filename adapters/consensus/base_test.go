package consensus

import (
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

func TestTheLastEntryOfASnapshotCanBeLookedUp(t *testing.T) {
	tests := map[string]struct {
		stored   []uint64 // in term 2
		snapshot uint64   // in term 3
		index    uint64
		term     uint64 // of the entry that is found; 0: none is found
	}{
		"the log is empty":                        {snapshot: 7, index: 7, term: 3},
		"the log begins behind the snapshot":      {stored: []uint64{8, 9}, snapshot: 7, index: 7, term: 3},
		"the log has a gap around the snapshot":   {stored: []uint64{3, 8}, snapshot: 7, index: 7, term: 3},
		"the log has another entry at that index": {stored: []uint64{6, 7, 8}, snapshot: 7, index: 7, term: 3},
		"the log ends before the snapshot":        {stored: []uint64{5, 6}, snapshot: 7, index: 7, term: 3},
		"the log ends with the snapshot":          {stored: []uint64{6, 7}, snapshot: 7, index: 7, term: 3},
		"an entry that the snapshot replaces":     {stored: []uint64{6, 7, 8}, snapshot: 7, index: 6},
		"an entry before the snapshot":            {stored: []uint64{8}, snapshot: 7, index: 6},
		"the entry before the first":              {snapshot: 1, index: 1},
		"there is no snapshot":                    {stored: []uint64{8}, index: 7},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			store := storeOf(t, 2, test.stored...)
			kept := &snapshots.Memory{}
			log := openBase(t, store, kept)
			if test.snapshot > 0 {
				makeSnapshot(t, kept, log, test.snapshot)
			}
			mustFindEntry(t, log, test.index, test.term)
			mustFindEntry(t, openBase(t, store, kept), test.index, test.term)
		})
	}
}

// A snapshot that is stored but could not be restored replaces no entry.
func TestTheLastEntryOfASnapshotIsFoundOnceTheSnapshotIsRestored(t *testing.T) {
	kept := &snapshots.Memory{}
	log := openBase(t, storeOf(t, 0), kept)
	applied := uint64(6)
	log.applied = func() uint64 { return applied }
	makeSnapshot(t, kept, log, 7)
	mustFindEntry(t, log, 7, 0)
	applied = 7
	mustFindEntry(t, log, 7, 3)
}

// Raft subtracts the snapshot's index from the last index, unsigned: a smaller last index
// would count as an enormous log.
func TestTheLastIndexIsNeverBelowTheSnapshot(t *testing.T) {
	for name, test := range map[string]struct {
		stored   []uint64
		snapshot uint64 // 0: none
		applied  uint64
		last     uint64
	}{
		"the log is empty":                                             {snapshot: 7, applied: 7, last: 7},
		"the log goes on behind the snapshot":                          {stored: []uint64{8, 9}, snapshot: 7, applied: 7, last: 9},
		"there is no snapshot":                                         {stored: []uint64{8}, applied: 8, last: 8},
		"there is neither a log nor a snapshot":                        {},
		"the snapshot is not restored, and the log is empty":           {snapshot: 7, applied: 5, last: 5},
		"the snapshot is not restored, nor the end of the log applied": {stored: []uint64{4, 5, 6}, snapshot: 7, applied: 5, last: 6},
		"raft has not started, and the log is empty":                   {snapshot: 7},
		"raft has not started, and the log has entries":                {stored: []uint64{6}, snapshot: 7, last: 6},
	} {
		t.Run(name, func(t *testing.T) {
			log := &baseLog{LogStore: storeOf(t, 3, test.stored...), applied: func() uint64 { return test.applied }}
			if test.snapshot > 0 {
				log.setBase(test.snapshot, 3)
			}
			if last, err := log.LastIndex(); last != test.last || err != nil {
				t.Errorf("LastIndex = %d, %v, want %d", last, err, test.last)
			}
		})
	}
}

func TestAnIdleInstanceWhoseLogIsEmptyMakesNoSnapshots(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true, timing: func(timing *Timing) {
		timing.TrailingLogs, timing.SnapshotInterval = 0, 10*time.Millisecond
	}})
	i.eventually(t, "leading", leading)
	register(t, i, "a")
	if err := i.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if first, err := i.store.FirstIndex(); err != nil || first != 0 {
		t.Fatalf("FirstIndex = %d, %v, want 0: without an empty log the test shows nothing", first, err)
	}
	kept, err := snapshots.Open(i.config.Directory, nil, i.config.Logger)
	if err != nil {
		t.Fatal(err)
	}
	made, err := kept.List()
	if err != nil {
		t.Fatal(err)
	}
	// Raft checks once per interval whether a snapshot is due.
	for end := time.Now().Add(20 * i.config.Timing.SnapshotInterval); time.Now().Before(end); time.Sleep(i.config.Timing.SnapshotInterval) {
		now, err := kept.List()
		if err != nil {
			t.Fatal(err)
		}
		if now[0].ID != made[0].ID {
			t.Fatalf("snapshots = %+v and then %+v, want no second one", made[0], now[0])
		}
	}
}

// When raft installs a snapshot, it compares the rest of its log with what the leader sends,
// and sends it to others.
func TestASnapshotLeavesNothingInTheLogThatItReplaces(t *testing.T) {
	entries := func(first, last, term uint64) (logs []*raft.Log) {
		for index := first; index <= last; index++ {
			logs = append(logs, &raft.Log{Index: index, Term: term})
		}
		return logs
	}
	for name, test := range map[string]struct {
		stored      []*raft.Log
		first, last uint64 // of what is left; the snapshot ends with entry 7 of term 3
	}{
		"the leader's log":                                {entries(4, 9, 3), 4, 9},
		"the leader's log, up to the snapshot":            {entries(4, 7, 3), 4, 7},
		"another leader's log, further than the snapshot": {entries(4, 9, 2), 8, 9},
		"another leader's log, up to the snapshot":        {entries(4, 7, 2), 0, 0},
		"another leader's log, shorter than the snapshot": {entries(4, 6, 2), 0, 0},
		"entries behind the snapshot only":                {entries(8, 9, 3), 8, 9},
		"no entries":                                      {nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open("", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.StoreLogs(test.stored); err != nil {
				t.Fatal(err)
			}
			kept := &snapshots.Memory{}
			makeSnapshot(t, kept, openBase(t, store, kept), 7)
			first, err := store.FirstIndex()
			last, err2 := store.LastIndex()
			if first != test.first || last != test.last || err != nil || err2 != nil {
				t.Errorf("entries left = %d to %d, %v, %v, want %d to %d", first, last, err, err2, test.first, test.last)
			}
		})
	}
}

// mustFindEntry fails unless the log has an entry of this term; term 0 means that it must
// have none.
func mustFindEntry(t *testing.T, log *baseLog, index, term uint64) {
	t.Helper()
	var entry raft.Log
	err := log.GetLog(index, &entry)
	switch {
	case term == 0 && err != raft.ErrLogNotFound:
		t.Errorf("GetLog = %+v, %v, want no entry", entry, err)
	case term != 0 && (err != nil || entry.Index != index || entry.Term != term):
		t.Errorf("GetLog = %+v, %v, want an entry of term %d", entry, err, term)
	}
}

// Raft takes the snapshot that it made last for the latest.
func TestASnapshotThatALaterOneSupersededIsGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		later, applied uint64 // later: the snapshot that completes before that of 7 entries
		kept           bool
	}{
		"a later snapshot was installed":      {later: 9, applied: 9},
		"a later snapshot is being installed": {later: 9, applied: 7, kept: true},
		"an older snapshot was stored":        {later: 5, applied: 7, kept: true},
		"no other snapshot":                   {applied: 7, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			kept := &snapshots.Memory{}
			log := openBase(t, storeOf(t, 0), kept)
			log.applied = func() uint64 { return test.applied }
			recorder, err := newBaseRecorder(kept, log)
			if err != nil {
				t.Fatal(err)
			}
			own, err := recorder.Create(raft.SnapshotVersionMax, 7, 3, raft.Configuration{}, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.later > 0 {
				makeSnapshot(t, kept, log, test.later)
			}
			if err := own.Close(); (err == nil) != test.kept || err != nil && !errors.Is(err, errSuperseded) {
				t.Errorf("Close = %v, want errSuperseded if a later snapshot has come", err)
			}
			latest := uint64(7)
			if test.later > 7 {
				latest = test.later
			}
			if base := log.base.Load(); base.Index != latest {
				t.Errorf("index of the log's base = %d", base.Index)
			}
		})
	}
}

// slowStore is a snapshot store in which something happens while a snapshot is completed.
type slowStore struct {
	raft.SnapshotStore
	meanwhile func()
}

func (s slowStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, network raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, network)
	return slowSink{sink, s.meanwhile}, err
}

type slowSink struct {
	raft.SnapshotSink
	meanwhile func()
}

func (s slowSink) Close() error {
	s.meanwhile()
	return s.SnapshotSink.Close()
}

func TestASupersededSnapshotLeavesNoFiles(t *testing.T) {
	dir := t.TempDir()
	kept, err := snapshots.Open(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	log := openBase(t, storeOf(t, 0), &snapshots.Memory{})
	recorder, err := newBaseRecorder(kept, log)
	if err != nil {
		t.Fatal(err)
	}
	own, err := recorder.Create(raft.SnapshotVersionMax, 7, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	log.setBase(9, 3)
	if err := own.Close(); !errors.Is(err, errSuperseded) {
		t.Errorf("Close = %v, want errSuperseded if a later snapshot has come", err)
	}
	if left := namesIn(t, filepath.Join(dir, logstore.SnapshotsFolder)); len(left) > 0 {
		t.Errorf("files left = %q, want none", left)
	}
}

// unreadableLog is a log whose entries can't be read.
type unreadableLog struct{ raft.LogStore }

func (unreadableLog) GetLog(uint64, *raft.Log) error { return errDisk }

// The unreadable log may be the one that the snapshot covers.
func TestALogThatCannotBeReadIsNotDropped(t *testing.T) {
	store := storeOf(t, 3, 6, 7, 8)
	log := openBase(t, unreadableLog{store}, &snapshots.Memory{})
	if err := log.dropReplaced(7, 3); !errors.Is(err, errDisk) {
		t.Errorf("dropReplaced = %v, want the error of the disk", err)
	}
	if first, err := store.FirstIndex(); first != 6 || err != nil {
		t.Errorf("FirstIndex = %d, %v, want 6", first, err)
	}
}

func TestASnapshotThatIsSupersededWhileItIsCompletedIsGivenUp(t *testing.T) {
	kept := &snapshots.Memory{}
	log := openBase(t, storeOf(t, 0), kept)
	log.applied = func() uint64 { return 9 }
	recorder, err := newBaseRecorder(slowStore{kept, func() { makeSnapshot(t, kept, log, 9) }}, log)
	if err != nil {
		t.Fatal(err)
	}
	own, err := recorder.Create(raft.SnapshotVersionMax, 7, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Close(); !errors.Is(err, errSuperseded) {
		t.Errorf("Close = %v, want errSuperseded if a later snapshot has come", err)
	}
	if base := log.base.Load(); base.Index != 9 {
		t.Errorf("index of the log's base = %d", base.Index)
	}
	if list, err := kept.List(); err != nil || list[0].Index != 9 {
		t.Errorf("newest snapshot = %+v, %v, want the one of entry 9", list[0], err)
	}
}

// Raft looks up the entry before those that it sends, and then those. The log may be cut in
// between. A follower that got a placeholder would keep it, and never apply the write of the
// real entry.
func TestAPlaceholderForAnEntryIsNotSent(t *testing.T) {
	store, kept := storeOf(t, 3, 5, 6, 7), &snapshots.Memory{}
	replaced := openBase(t, store, kept)
	mustFindEntry(t, replaced, 6, 3) // the entry before those that are sent
	makeSnapshot(t, kept, replaced, 7)
	if err := replaced.DeleteRange(5, 7); err != nil {
		t.Fatal(err)
	}
	retained := retainingLog{LogStore: storeOf(t, 3), retention: newRetention()}
	retained.retention.retain("here", &raft.InstallSnapshotRequest{LastLogIndex: 7, LastLogTerm: 3})

	network, port := transportOn(t, newPreface("here", "c", ""))
	requests := serveRaftRequests(t, network)
	peer, here := patientPeer(t, port)
	for name, log := range map[string]raft.LogStore{"of a log cut by a snapshot that was made": replaced, "of a log cut by a snapshot that is sent": retained} {
		t.Run(name, func(t *testing.T) {
			var entry raft.Log
			if err := log.GetLog(7, &entry); err != nil {
				t.Fatal(err)
			}
			args := &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, PrevLogEntry: 6, PrevLogTerm: 3, Entries: []*raft.Log{&entry}}
			if err := peer.AppendEntries("here", here, args, &raft.AppendEntriesResponse{}); !errors.Is(err, errLogCut) {
				t.Errorf("AppendEntries = %v, want errLogCut", err)
			}
			pipeline, err := peer.AppendEntriesPipeline("here", here)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = pipeline.Close() }()
			if _, err := pipeline.AppendEntries(args, &raft.AppendEntriesResponse{}); !errors.Is(err, errLogCut) {
				t.Errorf("AppendEntries in a pipeline = %v, want errLogCut", err)
			}
		})
	}
	// The receiver gets nothing before the next request.
	if err := peer.AppendEntries("here", here, &raft.AppendEntriesRequest{RPCHeader: header, Term: 9}, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if first := (<-requests).Command.(*raft.AppendEntriesRequest); first.Term != 9 {
		t.Errorf("first request received = %+v, want that of term 9", first)
	}
}

// Nothing can be appended behind a gap, or behind entries that no leader committed.
func TestALogBeginsAnewWithASnapshotThatReplacesIt(t *testing.T) {
	for name, test := range map[string]struct {
		stored []uint64
		term   uint64 // of the stored entries; the snapshot is of term 3
		left   uint64 // how many of them
	}{
		"the log ends before the snapshot":                    {[]uint64{4, 5, 6}, 2, 0},
		"the log has another entry at the snapshot's index":   {[]uint64{6, 7, 8}, 2, 0},
		"the log goes on behind the snapshot":                 {[]uint64{8, 9}, 3, 2},
		"the log goes on behind the snapshot, with a gap":     {[]uint64{3, 8}, 3, 1},
		"the entries behind the snapshot are of another log":  {[]uint64{8, 9}, 2, 0},
		"all entries are of another log":                      {[]uint64{3, 8}, 2, 0},
		"the log is the one that the snapshot covers":         {[]uint64{6, 7, 8}, 3, 3},
		"the entries behind the snapshot are of a later term": {[]uint64{8, 9}, 4, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open("", nil)
			if err != nil {
				t.Fatal(err)
			}
			kept := &snapshots.Memory{}
			makeSnapshot(t, kept, openBase(t, store, kept), 7)
			for _, index := range test.stored {
				if err := store.StoreLog(&raft.Log{Index: index, Term: test.term}); err != nil {
					t.Fatal(err)
				}
			}
			openBase(t, store, kept)
			left := uint64(0)
			for _, index := range test.stored {
				if store.GetLog(index, new(raft.Log)) == nil {
					left++
				}
			}
			if left != test.left {
				t.Errorf("entries left = %d, want %d", left, test.left)
			}
		})
	}
}

// storeOf returns a store with entries of one term.
func storeOf(t *testing.T, term uint64, indexes ...uint64) logstore.Store {
	t.Helper()
	store, err := memory.Open("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range indexes {
		if err := store.StoreLog(&raft.Log{Index: index, Term: term}); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// openBase returns a log whose entries the state machine has all applied.
func openBase(t *testing.T, store raft.LogStore, kept raft.SnapshotStore) *baseLog {
	t.Helper()
	cache, err := raft.NewLogCache(16, store)
	if err != nil {
		t.Fatal(err)
	}
	log := &baseLog{LogStore: cache, stored: cache, applied: func() uint64 { return math.MaxUint64 }}
	if _, err := newBaseRecorder(kept, log); err != nil {
		t.Fatal(err)
	}
	return log
}

// makeSnapshot installs a snapshot that ends with entry index of term 3.
func makeSnapshot(t *testing.T, kept raft.SnapshotStore, log *baseLog, index uint64) {
	t.Helper()
	recorder, err := newBaseRecorder(kept, log)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := recorder.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Close(), log.dropReplaced(index, 3)); err != nil {
		t.Fatal(err)
	}
}
