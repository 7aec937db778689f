package disk

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// testStore is a Store whose instance leads until a test says otherwise, with the
// first two entries on its disk.
type testStore struct {
	*Store
	watched       *watchedDisk
	leads, others atomic.Bool
	commit        atomic.Uint64
	appends       [][]*raft.Log // one slice for each append to the disk
}

// recordingStore records the entries of each append.
type recordingStore struct {
	*logstoretest.Faulty
	l *testStore
}

func (r recordingStore) StoreLogs(entries []*raft.Log) error {
	err := r.Faulty.StoreLogs(entries)
	if err == nil {
		r.l.appends = append(r.l.appends, slices.Clone(entries))
	}
	return err
}

func leadingLog(t *testing.T) *testStore {
	t.Helper()
	l := &testStore{watched: watchDisk(t)}
	l.watched.backend = recordingStore{l.watched.bad, l}
	config := &l.watched.config
	config.Leads, config.NeedsOthers, config.Committed = l.leads.Load, l.others.Load, l.commit.Load
	l.Store = &Store{entryCache: &entryCache{watch: l.watched.watch}, progress: make(chan struct{})}
	if err := l.StoreLogs([]*raft.Log{noop(1), noop(2)}); err != nil {
		t.Fatal(err)
	}
	l.leads.Store(true)
	l.others.Store(true)
	return l
}

func (l *testStore) close(t *testing.T) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// mustAppendAtOnce stores entries, and fails the test if that waits for the disk.
func (l *testStore) mustAppendAtOnce(t *testing.T, entries ...*raft.Log) {
	t.Helper()
	ended := async(func() error {
		if len(entries) == 1 {
			return l.StoreLog(entries[0])
		}
		return l.StoreLogs(entries)
	})
	synctest.Wait()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatal("the append waits for the disk")
	}
}

func (l *testStore) onDisk(t *testing.T, index uint64) bool {
	t.Helper()
	last, err := l.watched.bad.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	return last >= index
}

func noop(index uint64) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Type: raft.LogNoop}
}

// async runs do in a goroutine and returns the channel with its result.
func async[T any](do func() T) <-chan T {
	ended := make(chan T, 1)
	go func() { ended <- do() }()
	return ended
}

func TestALeaderIsAheadOfItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := leadingLog(t)
		defer l.close(t)
		release := l.watched.bad.Hang()
		l.mustAppendAtOnce(t, noop(3))
		l.mustAppendAtOnce(t, noop(4), noop(5))
		for index := uint64(1); index <= 5; index++ {
			var entry raft.Log
			if err := l.GetLog(index, &entry); err != nil || entry.Index != index {
				t.Errorf("GetLog(%d) = %v, %v, want that entry", index, &entry, err)
			}
		}
		if last, err := l.LastIndex(); last != 5 || err != nil {
			t.Errorf("LastIndex = %d, %v, want the index of the latest entry", last, err)
		}
		for index, want := range []bool{2: false, 3: true, 4: true, 5: true, 6: false} {
			if got := l.Pending(uint64(index)); (got != nil) != want || want && got.Index != uint64(index) {
				t.Errorf("Pending(%d) = %v, want it = %v", index, got, want)
			}
		}
		if !l.Await(2, nil) {
			t.Error("await(2) = false, want true: entry 2 is stored")
		}
		given := make(chan struct{})
		third, fifth := async(func() bool { return l.Await(3, nil) }), async(func() bool { return l.Await(5, given) })
		synctest.Wait()
		if len(third)+len(fifth) > 0 || l.onDisk(t, 3) {
			t.Error("an entry that is not stored is reported as stored")
		}
		close(given)
		if <-fifth {
			t.Error("await(5) = true for a caller that gave up, want false")
		}
		release()
		if !<-third || !l.Await(5, nil) || !l.onDisk(t, 5) {
			t.Error("entries 3 to 5 are not stored although the disk answers again")
		}
		// The entries that came while the disk was busy are written with one append.
		if sizes := batchSizes(l.appends); !slices.Equal(sizes, []int{2, 1, 2}) {
			t.Errorf("entries in each append = %d, want 2, 1 and 2", sizes)
		}
		l.mustAppendAtOnce(t, noop(6))
		if !l.Await(6, nil) || !l.onDisk(t, 6) {
			t.Error("entry 6 is not stored")
		}
	})
}

func batchSizes(batches [][]*raft.Log) (sizes []int) {
	for _, batch := range batches {
		sizes = append(sizes, len(batch))
	}
	return sizes
}

func TestOperationsThatWaitForTheDisk(t *testing.T) {
	storesNext := func(kind raft.LogType) func(*testStore) error {
		return func(l *testStore) error {
			return l.StoreLogs([]*raft.Log{{Index: 4, Term: 1, Type: kind}})
		}
	}
	deposed := func(l *testStore) { l.leads.Store(false) }
	tests := map[string]struct {
		before func(*testStore)
		do     func(*testStore) error
	}{
		"a follower that is sent the next entry": {before: deposed, do: storesNext(raft.LogNoop)},
		"a follower that is asked for an entry": {
			before: deposed,
			do:     func(l *testStore) error { return l.GetLog(3, &raft.Log{}) },
		},
		"a follower that removes the end of its log": {
			before: deposed,
			do:     func(l *testStore) error { return l.DeleteRange(3, 3) },
		},
		"a follower that removes its whole log": {
			before: deposed,
			do:     func(l *testStore) error { return l.DeleteRange(1, 10) },
		},
		"a leader that is a majority by itself": {before: func(l *testStore) { l.others.Store(false) }, do: storesNext(raft.LogNoop)},
		"a leader that has installed a snapshot": {
			before: func(*testStore) {},
			do:     func(l *testStore) error { return l.StoreLogs([]*raft.Log{noop(9)}) },
		},
		"a leader that changes the membership":                 {before: func(*testStore) {}, do: storesNext(raft.LogConfiguration)},
		"a leader whose log lacks entries that raft counts on": {before: func(l *testStore) { l.watched.truncated.Store(true) }, do: storesNext(raft.LogNoop)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := leadingLog(t)
				defer l.close(t)
				release := l.watched.bad.Hang()
				l.mustAppendAtOnce(t, noop(3))
				test.before(l)
				ended := async(func() error { return test.do(l) })
				synctest.Wait()
				if len(ended) > 0 {
					t.Error("the call did not wait for the disk")
				}
				if err := l.DeleteRange(1, 1); err != nil { // the removal of stored entries does not wait
					t.Error(err)
				}
				release()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Raft panics if it can't read a committed entry.
func TestCommittedEntriesDoNotWaitForTheLeadersDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := leadingLog(t)
		defer l.close(t)
		release := l.watched.bad.Hang()
		defer release()
		l.mustAppendAtOnce(t, noop(3), noop(4))
		l.leads.Store(false)
		l.commit.Store(3)
		var entry raft.Log
		if err := l.GetLog(3, &entry); err != nil || entry.Index != 3 {
			t.Errorf("GetLog(3) = %v, %v, want entry 3", &entry, err)
		}
		next := async(func() error { return l.GetLog(4, &raft.Log{}) })
		synctest.Wait()
		if len(next) > 0 {
			t.Error("GetLog(4) returned before the disk answered, want it to wait: entry 4 is not committed")
		}
		release()
		if err := <-next; err != nil {
			t.Error(err)
		}
	})
}

// As long as raft can still be told of an error, a write is refused, so that its outcome is
// certain.
func TestALeaderIsNotAheadOfADiskInTrouble(t *testing.T) {
	full := &logstore.NoRoomError{Directory: "/d", Free: 1, Needed: 2}
	synctest.Test(t, func(t *testing.T) {
		l := leadingLog(t)
		defer l.close(t)
		l.watched.bad.Fill(full)
		if err := l.StoreLogs([]*raft.Log{noop(3)}); err != full {
			t.Errorf("StoreLogs on a full disk = %v, want the refusal of the disk", err)
		}
		if l.watched.Fault() == nil {
			t.Error("fault = nil, want trouble with the disk")
		}
		l.watched.bad.Fill(nil)
		advanceTime(2 * retryPause)

		release := l.watched.bad.Hang()
		l.mustAppendAtOnce(t, noop(3))
		advanceTime(2 * testHang)
		if err := l.StoreLogs([]*raft.Log{noop(4)}); err == nil || err != l.watched.Fault() {
			t.Errorf("StoreLogs on a disk that hangs = %v, want the fault of the disk", err)
		}
		release()
		if !l.Await(3, nil) {
			t.Error("entry 3, which came before the trouble, is not stored")
		}
		if last, err := l.LastIndex(); last != 3 || err != nil {
			t.Errorf("LastIndex = %d, %v, want the index of the latest entry", last, err)
		}
	})
}

// pendingLog returns a log with pending entries: raft was told that they are stored, but the
// disk has no room for them, though it has for the term.
func pendingLog(t *testing.T) *testStore {
	t.Helper()
	l := leadingLog(t)
	release := l.watched.bad.Hang()
	l.mustAppendAtOnce(t, noop(3))
	l.mustAppendAtOnce(t, noop(4))
	l.mustAppendAtOnce(t, noop(5))
	l.watched.bad.FailAppends(&logstore.NoRoomError{Directory: "/d", Free: 1, Needed: 2})
	release()
	advanceTime(time.Minute)
	if l.watched.Fault() == nil || l.onDisk(t, 4) {
		t.Error("fault = nil, or entry 4 is stored, want trouble and no entry")
	}
	select {
	case <-l.watched.Stalled():
	default:
		t.Error("a caller that waits for an entry is not told that its outcome is unknown")
	}
	return l
}

func TestAPendingEntryIsTriedUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pendingLog(t)
		defer l.close(t)
		waiting := async(func() bool { return l.Await(5, nil) })
		changing := async(func() error { return l.StoreLogs([]*raft.Log{{Index: 6, Term: 1, Type: raft.LogConfiguration}}) })
		synctest.Wait()
		if len(changing) > 0 {
			t.Error("a membership was accepted before it was stored: raft would use one that is not in the log")
		}
		l.watched.bad.FailAppends(nil)
		if !<-waiting || !l.onDisk(t, 5) {
			t.Error("entry 5 is not stored")
		}
		if err := <-changing; err != nil {
			t.Error(err)
		}
		advanceTime(2 * retryPause)
		if fault := l.watched.Fault(); fault != nil {
			t.Errorf("fault after the entry was stored = %v, want none", fault)
		}
	})
}

// A follower that waited could neither make room nor vote.
func TestAFollowerDoesNotWaitForADiskInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pendingLog(t)
		defer l.close(t)
		l.leads.Store(false)
		for name, err := range map[string]error{
			"append":  l.StoreLogs([]*raft.Log{noop(6)}),
			"look up": l.GetLog(5, &raft.Log{}),
			"remove":  l.DeleteRange(5, 5),
		} {
			if err == nil || !strings.Contains(err.Error(), "/d has 0 kB free") {
				t.Errorf("%s: error = %v, want that /d has 0 kB free", name, err)
			}
		}
		if err := l.GetLog(2, &raft.Log{}); err != nil {
			t.Errorf("GetLog of a stored entry = %v, want success", err)
		}
		l.watched.bad.FailAppends(nil)
		advanceTime(2 * retryPause)
		if err := l.StoreLogs([]*raft.Log{noop(6)}); err != nil {
			t.Error(err)
		}
	})
}

func TestAWriteEndsBeforeTheStoreIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := leadingLog(t)
		release := l.watched.bad.Hang()
		l.mustAppendAtOnce(t, noop(3))
		closed := async(l.Close)
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("the store was closed while entry 3 is being written")
		}
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestPendingEntriesAreLostWhenTheInstanceIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pendingLog(t)
		waiting := async(func() bool { return l.Await(5, nil) })
		appended, ended := false, make(chan struct{})
		go func() { // stands for raft's main goroutine, which can't be told of an error
			defer close(ended)
			_ = l.StoreLogs([]*raft.Log{{Index: 6, Term: 1, Type: raft.LogConfiguration}})
			appended = true
		}()
		l.close(t)
		if <-ended; appended || <-waiting {
			t.Error("a lost entry is reported as stored")
		}
		l.leads.Store(false)
		if err := l.GetLog(5, &raft.Log{}); err == nil {
			t.Error("GetLog of a lost entry = nil, want an error")
		}
	})
}

// Room promises space for one append of raft's usual size only.
func TestPendingEntriesAreAppendedInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := leadingLog(t)
		defer l.close(t)
		release := l.watched.bad.Hang()
		l.mustAppendAtOnce(t, noop(3))
		for index := uint64(4); index < 4+testBatch+10; index++ {
			l.mustAppendAtOnce(t, noop(index))
		}
		last := uint64(4 + testBatch + 10)
		for range 3 {
			entry := noop(last)
			entry.Data, entry.Extensions = make([]byte, maxAppend/4), make([]byte, maxAppend/4)
			l.mustAppendAtOnce(t, entry)
			last++
		}
		release()
		if !l.Await(last-1, nil) {
			t.Error("the pending entries are not stored")
		}
		if sizes := batchSizes(l.appends); !slices.Equal(sizes, []int{2, 1, testBatch, 12, 1}) {
			t.Errorf("entries in each append = %d, want 2, 1, %d, 12 and 1", sizes, testBatch)
		}
	})
}
