package consensus

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

func TestTheEntryThatASnapshotEndsWithCanBeLookedUp(t *testing.T) {
	tests := map[string]struct {
		stored   []uint64 // in term 2
		snapshot uint64   // in term 3
		index    uint64
		term     uint64 // that is found; 0: nothing is
	}{
		"of an empty log":              {snapshot: 7, index: 7, term: 3},
		"before what is stored":        {stored: []uint64{8, 9}, snapshot: 7, index: 7, term: 3},
		"behind what is left":          {stored: []uint64{3, 8}, snapshot: 7, index: 7, term: 3},
		"in the place of another one":  {stored: []uint64{6, 7, 8}, snapshot: 7, index: 7, term: 3},
		"behind the end of the log":    {stored: []uint64{5, 6}, snapshot: 7, index: 7, term: 3},
		"where the log ends, too":      {stored: []uint64{6, 7}, snapshot: 7, index: 7, term: 3},
		"but none that it replaces":    {stored: []uint64{6, 7, 8}, snapshot: 7, index: 6},
		"nor another one":              {stored: []uint64{8}, snapshot: 7, index: 6},
		"nor the first, that could be": {snapshot: 1, index: 1},
		"nor without a snapshot":       {stored: []uint64{8}, index: 7},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			store := storeOf(t, 2, test.stored...)
			kept := &memorySnapshots{}
			log := openBase(t, store, kept)
			if test.snapshot > 0 {
				makeSnapshot(t, kept, log, test.snapshot)
			}
			mustFindEntry(t, log, test.index, test.term)
			mustFindEntry(t, openBase(t, store, kept), test.index, test.term)
		})
	}
}

// A snapshot that could not be restored is stored, and replaces nothing.
func TestTheEntryThatASnapshotEndsWithIsFoundOnceThatIsRestored(t *testing.T) {
	kept := &memorySnapshots{}
	log := openBase(t, storeOf(t, 0), kept)
	applied := uint64(6)
	log.applied = func() uint64 { return applied }
	makeSnapshot(t, kept, log, 7)
	mustFindEntry(t, log, 7, 0)
	applied = 7
	mustFindEntry(t, log, 7, 3)
}

// Raft would take it for ahead of the snapshot by nearly all that there can be.
func TestTheLastIndexIsNeverBelowTheSnapshot(t *testing.T) {
	for name, test := range map[string]struct {
		stored   []uint64
		snapshot uint64 // 0: none
		applied  uint64
		last     uint64
	}{
		"it is empty":                       {snapshot: 7, applied: 7, last: 7},
		"it goes on behind":                 {stored: []uint64{8, 9}, snapshot: 7, applied: 7, last: 9},
		"there is no snapshot":              {stored: []uint64{8}, applied: 8, last: 8},
		"there is nothing":                  {},
		"the snapshot is not restored":      {snapshot: 7, applied: 5, last: 5},
		"nor the end of the log applied":    {stored: []uint64{4, 5, 6}, snapshot: 7, applied: 5, last: 6},
		"raft has not started":              {snapshot: 7},
		"nor has it with an end of its own": {stored: []uint64{6}, snapshot: 7, last: 6},
	} {
		t.Run(name, func(t *testing.T) {
			log := &baseLog{LogStore: storeOf(t, 3, test.stored...), applied: func() uint64 { return test.applied }}
			if test.snapshot > 0 {
				log.setBase(test.snapshot, 3)
			}
			if last, err := log.LastIndex(); last != test.last || err != nil {
				t.Errorf("it ends with entry %d, %v; want %d", last, err, test.last)
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
		t.Fatalf("the log begins with entry %d, %v: the test shows nothing", first, err)
	}
	snapshots, err := openSnapshots(i.config.Directory, nil, i.config.Logger)
	if err != nil {
		t.Fatal(err)
	}
	made, err := snapshots.List()
	if err != nil {
		t.Fatal(err)
	}
	// Raft looks whether one is due once in each interval.
	for end := time.Now().Add(20 * i.config.Timing.SnapshotInterval); time.Now().Before(end); time.Sleep(i.config.Timing.SnapshotInterval) {
		now, err := snapshots.List()
		if err != nil {
			t.Fatal(err)
		}
		if now[0].ID != made[0].ID {
			t.Fatalf("it made %+v, and then %+v", made[0], now[0])
		}
	}
}

// What raft has of the log when it installs a snapshot it compares with what the leader
// sends, and sends to others.
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
		"the same log":                  {entries(4, 9, 3), 4, 9},
		"one that ends there":           {entries(4, 7, 3), 4, 7},
		"one of another leader":         {entries(4, 9, 2), 8, 9},
		"one of another that is as far": {entries(4, 7, 2), 0, 0},
		"one that is not as far":        {entries(4, 6, 2), 0, 0},
		"what comes behind":             {entries(8, 9, 3), 8, 9},
		"nothing":                       {nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open("", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.StoreLogs(test.stored); err != nil {
				t.Fatal(err)
			}
			kept := &memorySnapshots{}
			makeSnapshot(t, kept, openBase(t, store, kept), 7)
			first, err := store.FirstIndex()
			last, err2 := store.LastIndex()
			if first != test.first || last != test.last || err != nil || err2 != nil {
				t.Errorf("left is %d to %d, %v, %v; want %d to %d", first, last, err, err2, test.first, test.last)
			}
		})
	}
}

// mustFindEntry wants an entry of a term, or none where that is 0.
func mustFindEntry(t *testing.T, log *baseLog, index, term uint64) {
	t.Helper()
	var entry raft.Log
	err := log.GetLog(index, &entry)
	switch {
	case term == 0 && err != raft.ErrLogNotFound:
		t.Errorf("found %+v, error %v", entry, err)
	case term != 0 && (err != nil || entry.Index != index || entry.Term != term):
		t.Errorf("found %+v, error %v, want term %d", entry, err, term)
	}
}

// Raft would take the one that it made for the latest.
func TestASnapshotThatWasOutrunIsGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		later, applied uint64 // the snapshot that comes before the one of 7 entries is complete
		kept           bool
	}{
		"a later one was installed":      {later: 9, applied: 9},
		"a later one is being installed": {later: 9, applied: 7, kept: true},
		"one that is older was stored":   {later: 5, applied: 7, kept: true},
		"none":                           {applied: 7, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			kept := &memorySnapshots{}
			log := openBase(t, storeOf(t, 0), kept)
			log.applied = func() uint64 { return test.applied }
			snapshots, err := newBaseRecorder(kept, log)
			if err != nil {
				t.Fatal(err)
			}
			own, err := snapshots.Create(raft.SnapshotVersionMax, 7, 3, raft.Configuration{}, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.later > 0 {
				makeSnapshot(t, kept, log, test.later)
			}
			if err := own.Close(); (err == nil) != test.kept || err != nil && !errors.Is(err, errSuperseded) {
				t.Errorf("Close: %v", err)
			}
			latest := uint64(7)
			if test.later > 7 {
				latest = test.later
			}
			if base := log.base.Load(); base.Index != latest {
				t.Errorf("the log rests on %d", base.Index)
			}
		})
	}
}

// busyStore is a store whose snapshots take a while to become complete.
type busyStore struct {
	raft.SnapshotStore
	meanwhile func()
}

func (s busyStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, network raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, network)
	return busySink{sink, s.meanwhile}, err
}

type busySink struct {
	raft.SnapshotSink
	meanwhile func()
}

func (s busySink) Close() error {
	s.meanwhile()
	return s.SnapshotSink.Close()
}

func TestOfASnapshotThatWasOutrunNothingIsLeft(t *testing.T) {
	kept := openTestSnapshots(t, t.TempDir())
	log := openBase(t, storeOf(t, 0), &memorySnapshots{})
	snapshots, err := newBaseRecorder(kept, log)
	if err != nil {
		t.Fatal(err)
	}
	own, err := snapshots.Create(raft.SnapshotVersionMax, 7, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	log.setBase(9, 3)
	if err := own.Close(); !errors.Is(err, errSuperseded) {
		t.Errorf("Close: %v", err)
	}
	if left := namesIn(t, kept.folder); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// unreadableLog is a log whose entries can't be read.
type unreadableLog struct{ raft.LogStore }

func (unreadableLog) GetLog(uint64, *raft.Log) error { return errDisk }

// It may be the log that the snapshot has.
func TestALogThatCannotBeReadIsNotDropped(t *testing.T) {
	store := storeOf(t, 3, 6, 7, 8)
	log := openBase(t, unreadableLog{store}, &memorySnapshots{})
	if err := log.dropReplaced(7, 3); !errors.Is(err, errDisk) {
		t.Errorf("error %v", err)
	}
	if first, err := store.FirstIndex(); first != 6 || err != nil {
		t.Errorf("it begins with entry %d, error %v", first, err)
	}
}

func TestASnapshotThatIsOutrunWhileItBecomesCompleteIsGivenUp(t *testing.T) {
	kept := &memorySnapshots{}
	log := openBase(t, storeOf(t, 0), kept)
	log.applied = func() uint64 { return 9 }
	snapshots, err := newBaseRecorder(busyStore{kept, func() { makeSnapshot(t, kept, log, 9) }}, log)
	if err != nil {
		t.Fatal(err)
	}
	own, err := snapshots.Create(raft.SnapshotVersionMax, 7, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Close(); !errors.Is(err, errSuperseded) {
		t.Errorf("Close: %v", err)
	}
	if base := log.base.Load(); base.Index != 9 {
		t.Errorf("the log rests on %d", base.Index)
	}
	if list, err := kept.List(); err != nil || list[0].Index != 9 {
		t.Errorf("the newest is %+v, error %v", list[0], err)
	}
}

// Raft looks up the entry before those that it sends, and then those: the log may be cut in
// between. A follower would keep a stand-in for an entry, and never apply the write in it.
func TestAPlaceholderForAnEntryIsNotSent(t *testing.T) {
	store, kept := storeOf(t, 3, 5, 6, 7), &memorySnapshots{}
	replaced := openBase(t, store, kept)
	mustFindEntry(t, replaced, 6, 3) // before those that are sent
	makeSnapshot(t, kept, replaced, 7)
	if err := replaced.DeleteRange(5, 7); err != nil {
		t.Fatal(err)
	}
	retained := retainingLog{LogStore: storeOf(t, 3), retention: newRetention()}
	retained.retention.retain("here", &raft.InstallSnapshotRequest{LastLogIndex: 7, LastLogTerm: 3})

	network, s := transportOn(t, side("here", "c", ""))
	requests := answering(t, network)
	peer, here := neighbour(t, s)
	for name, log := range map[string]raft.LogStore{"of a snapshot that was made": replaced, "of one that is sent": retained} {
		t.Run(name, func(t *testing.T) {
			var entry raft.Log
			if err := log.GetLog(7, &entry); err != nil {
				t.Fatal(err)
			}
			args := &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, PrevLogEntry: 6, PrevLogTerm: 3, Entries: []*raft.Log{&entry}}
			if err := peer.AppendEntries("here", here, args, &raft.AppendEntriesResponse{}); !errors.Is(err, errLogCut) {
				t.Errorf("by itself: %v", err)
			}
			pipeline, err := peer.AppendEntriesPipeline("here", here)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = pipeline.Close() }()
			if _, err := pipeline.AppendEntries(args, &raft.AppendEntriesResponse{}); !errors.Is(err, errLogCut) {
				t.Errorf("in a pipeline: %v", err)
			}
		})
	}
	// What is sent afterwards is the first that comes.
	if err := peer.AppendEntries("here", here, &raft.AppendEntriesRequest{RPCHeader: header, Term: 9}, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if first := (<-requests).Command.(*raft.AppendEntriesRequest); first.Term != 9 {
		t.Errorf("%+v came", first)
	}
}

// Nothing can be appended behind a gap, or to what no leader committed.
func TestALogBeginsAnewWithASnapshotThatReplacesIt(t *testing.T) {
	for name, test := range map[string]struct {
		stored []uint64
		term   uint64 // of those; the snapshot's is 3
		left   uint64 // how many
	}{
		"it ends before":                        {[]uint64{4, 5, 6}, 2, 0},
		"it has another entry there":            {[]uint64{6, 7, 8}, 2, 0},
		"it goes on behind":                     {[]uint64{8, 9}, 3, 2},
		"it goes on, behind older ones":         {[]uint64{3, 8}, 3, 1},
		"what is behind is of another log":      {[]uint64{8, 9}, 2, 0},
		"all that is left is of another log":    {[]uint64{3, 8}, 2, 0},
		"it is the log that the snapshot has":   {[]uint64{6, 7, 8}, 3, 3},
		"what is behind is of a later election": {[]uint64{8, 9}, 4, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open("", nil)
			if err != nil {
				t.Fatal(err)
			}
			kept := &memorySnapshots{}
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
				t.Errorf("%d of its entries are left, want %d", left, test.left)
			}
		})
	}
}

// storeOf holds entries of a term.
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

// openBase gives a log of which the state machine has everything.
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

// makeSnapshot installs one.
func makeSnapshot(t *testing.T, kept raft.SnapshotStore, log *baseLog, index uint64) {
	t.Helper()
	snapshots, err := newBaseRecorder(kept, log)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := snapshots.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Close(), log.dropReplaced(index, 3)); err != nil {
		t.Fatal(err)
	}
}
