package consensus

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// runner is a log of an instance that leads, or not, with the first two entries on
// its disk.
type runner struct {
	*aheadLog
	watched       *watched
	leads, others atomic.Bool
	commit        atomic.Uint64
	appends       [][]*raft.Log // all that the disk was given at once
}

// recording notes what is appended at once.
type recording struct {
	*badStore
	l *runner
}

func (r recording) StoreLogs(entries []*raft.Log) error {
	err := r.badStore.StoreLogs(entries)
	if err == nil {
		r.l.appends = append(r.l.appends, slices.Clone(entries))
	}
	return err
}

func lead(t *testing.T) *runner {
	t.Helper()
	l := &runner{watched: watch(t)}
	l.watched.Store = recording{l.watched.bad, l}
	l.aheadLog = &aheadLog{
		entryCache:  &entryCache{disk: l.watched.disk},
		leads:       l.leads.Load,
		needsOthers: l.others.Load,
		committed:   l.commit.Load,
		progress:    make(chan struct{}),
	}
	if err := l.StoreLogs([]*raft.Log{noop(1), noop(2)}); err != nil {
		t.Fatal(err)
	}
	l.leads.Store(true)
	l.others.Store(true)
	return l
}

func (l *runner) close(t *testing.T) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// put stores what must not wait for the disk.
func (l *runner) put(t *testing.T, entries ...*raft.Log) {
	t.Helper()
	ended := during(func() error { return l.StoreLogs(entries) })
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

func (l *runner) onDisk(t *testing.T, index uint64) bool {
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

// during begins something and gives the channel with how that ends.
func during[T any](do func() T) <-chan T {
	ended := make(chan T, 1)
	go func() { ended <- do() }()
	return ended
}

func TestALeaderIsAheadOfItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lead(t)
		defer l.close(t)
		release := l.watched.bad.hang()
		l.put(t, noop(3))
		l.put(t, noop(4), noop(5))
		for index := uint64(1); index <= 5; index++ {
			var entry raft.Log
			if err := l.GetLog(index, &entry); err != nil || entry.Index != index {
				t.Errorf("entry %d: %v, %v", index, &entry, err)
			}
		}
		if last, err := l.LastIndex(); last != 5 || err != nil {
			t.Errorf("the log ends with %d, %v", last, err)
		}
		if !l.await(2, nil) {
			t.Error("the second entry is not here")
		}
		given := make(chan struct{})
		third, fifth := during(func() bool { return l.await(3, nil) }), during(func() bool { return l.await(5, given) })
		synctest.Wait()
		if len(third)+len(fifth) > 0 || l.onDisk(t, 3) {
			t.Error("an entry is said to be here that is not")
		}
		close(given)
		if <-fifth {
			t.Error("an entry counts as stored because nobody waits for it any more")
		}
		release()
		if !<-third || !l.await(5, nil) || !l.onDisk(t, 5) {
			t.Error("the disk works, and the entries are not here")
		}
		// What came while the disk was busy was written at once.
		if sizes := lengths(l.appends); !slices.Equal(sizes, []int{2, 1, 2}) {
			t.Errorf("entries in each append = %d, want 2, 1 and 2", sizes)
		}
		l.put(t, noop(6))
		if !l.await(6, nil) || !l.onDisk(t, 6) {
			t.Error("the next one did not come")
		}
	})
}

func lengths(batches [][]*raft.Log) (sizes []int) {
	for _, batch := range batches {
		sizes = append(sizes, len(batch))
	}
	return sizes
}

func TestOperationsThatWaitForTheDisk(t *testing.T) {
	storesNext := func(kind raft.LogType) func(*runner) error {
		return func(l *runner) error {
			return l.StoreLogs([]*raft.Log{{Index: 4, Term: 1, Type: kind}})
		}
	}
	deposed := func(l *runner) { l.leads.Store(false) }
	tests := map[string]struct {
		before func(*runner)
		do     func(*runner) error
	}{
		"a follower that is sent the next entry": {before: deposed, do: storesNext(raft.LogNoop)},
		"a follower that is asked for an entry": {
			before: deposed,
			do:     func(l *runner) error { return l.GetLog(3, &raft.Log{}) },
		},
		"a follower that removes its end": {
			before: deposed,
			do:     func(l *runner) error { return l.DeleteRange(3, 3) },
		},
		"a follower that removes everything": {
			before: deposed,
			do:     func(l *runner) error { return l.DeleteRange(1, 10) },
		},
		"a leader that is a majority": {before: func(l *runner) { l.others.Store(false) }, do: storesNext(raft.LogNoop)},
		"a leader that has installed a snapshot": {
			before: func(*runner) {},
			do:     func(l *runner) error { return l.StoreLogs([]*raft.Log{noop(9)}) },
		},
		"a leader that changes the members":        {before: func(*runner) {}, do: storesNext(raft.LogConfiguration)},
		"a leader whose log lacks what raft knows": {before: func(l *runner) { l.watched.truncated.Store(true) }, do: storesNext(raft.LogNoop)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lead(t)
				defer l.close(t)
				release := l.watched.bad.hang()
				l.put(t, noop(3))
				test.before(l)
				ended := during(func() error { return test.do(l) })
				synctest.Wait()
				if len(ended) > 0 {
					t.Error("the call did not wait for the disk")
				}
				if err := l.DeleteRange(1, 1); err != nil { // nobody waits for what is older
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

// Raft panics where it can't apply what is committed.
func TestCommittedEntriesDoNotWaitForTheLeadersDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lead(t)
		defer l.close(t)
		release := l.watched.bad.hang()
		defer release()
		l.put(t, noop(3), noop(4))
		l.leads.Store(false)
		l.commit.Store(3)
		var entry raft.Log
		if err := l.GetLog(3, &entry); err != nil || entry.Index != 3 {
			t.Errorf("GetLog(3) = %v, %v, want entry 3", &entry, err)
		}
		next := during(func() error { return l.GetLog(4, &raft.Log{}) })
		synctest.Wait()
		if len(next) > 0 {
			t.Error("the one behind it is said to be here")
		}
		release()
		if err := <-next; err != nil {
			t.Error(err)
		}
	})
}

// What raft can still be told is refused for sure.
func TestALeaderIsNotAheadOfADiskInTrouble(t *testing.T) {
	full := &logstore.NoRoomError{Directory: "/d", Free: 1, Needed: 2}
	synctest.Test(t, func(t *testing.T) {
		l := lead(t)
		defer l.close(t)
		l.watched.bad.fill(full)
		if err := l.StoreLogs([]*raft.Log{noop(3)}); err != full {
			t.Errorf("the disk is full: %v", err)
		}
		if l.watched.fault() == nil {
			t.Error("fault = nil, want trouble with the disk")
		}
		l.watched.bad.fill(nil)
		later(2 * diskRetryPause)

		release := l.watched.bad.hang()
		l.put(t, noop(3))
		later(2 * testHang)
		if err := l.StoreLogs([]*raft.Log{noop(4)}); err == nil || err != l.watched.fault() {
			t.Errorf("the disk hangs: %v", err)
		}
		release()
		if !l.await(3, nil) {
			t.Error("the entry before is lost")
		}
		if last, err := l.LastIndex(); last != 3 || err != nil {
			t.Errorf("the log ends with %d, %v", last, err)
		}
	})
}

// Raft was told that it is stored, and then there is no room for it, though there is for
// the term.
func pend(t *testing.T) *runner {
	t.Helper()
	l := lead(t)
	release := l.watched.bad.hang()
	l.put(t, noop(3))
	l.put(t, noop(4))
	l.put(t, noop(5))
	l.watched.bad.failAppends(&logstore.NoRoomError{Directory: "/d", Free: 1, Needed: 2})
	release()
	later(time.Minute)
	if l.watched.fault() == nil || l.onDisk(t, 4) {
		t.Error("fault = nil, or entry 4 is stored, want trouble and no entry")
	}
	select {
	case <-l.watched.whileStalled():
	default:
		t.Error("a caller that waits for an entry is not told that its outcome is unknown")
	}
	return l
}

func TestAPendingEntryIsTriedUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pend(t)
		defer l.close(t)
		waiting := during(func() bool { return l.await(5, nil) })
		changing := during(func() error { return l.StoreLogs([]*raft.Log{{Index: 6, Term: 1, Type: raft.LogConfiguration}}) })
		synctest.Wait()
		if len(changing) > 0 {
			t.Error("raft would believe in members that are not in the log")
		}
		l.watched.bad.failAppends(nil)
		if !<-waiting || !l.onDisk(t, 5) {
			t.Error("entry 5 is not stored")
		}
		if err := <-changing; err != nil {
			t.Error(err)
		}
		later(2 * diskRetryPause)
		if fault := l.watched.fault(); fault != nil {
			t.Errorf("fault after the entry was stored = %v, want none", fault)
		}
	})
}

// It could not make room, nor vote, if it waited.
func TestAFollowerDoesNotWaitForADiskInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pend(t)
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
		l.watched.bad.failAppends(nil)
		later(2 * diskRetryPause)
		if err := l.StoreLogs([]*raft.Log{noop(6)}); err != nil {
			t.Error(err)
		}
	})
}

func TestPendingEntriesAreLostWhenTheInstanceIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pend(t)
		waiting := during(func() bool { return l.await(5, nil) })
		appended, ended := false, make(chan struct{})
		go func() { // raft's main goroutine, which could be told of no error
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
			t.Error("a follower has what is lost")
		}
	})
}

// A store says that it has room for one append of raft's usual size.
func TestPendingEntriesAreAppendedInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lead(t)
		defer l.close(t)
		release := l.watched.bad.hang()
		l.put(t, noop(3))
		for index := uint64(4); index < 4+maxBatch+10; index++ {
			l.put(t, noop(index))
		}
		last := uint64(4 + maxBatch + 10)
		for range 3 {
			entry := noop(last)
			entry.Data = make([]byte, maxAppend/2)
			l.put(t, entry)
			last++
		}
		release()
		if !l.await(last-1, nil) {
			t.Error("they are not stored")
		}
		if sizes := lengths(l.appends); !slices.Equal(sizes, []int{2, 1, maxBatch, 12, 1}) {
			t.Errorf("entries in each append = %d, want 2, 1, %d, 12 and 1", sizes, maxBatch)
		}
	})
}

// accepting is a transport to a follower that accepts everything.
type accepting struct{ *incoming }

func (accepting) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	*response = raft.AppendEntriesResponse{Term: request.Term, Success: true}
	return nil
}

func TestAnAcknowledgementWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lead(t)
		defer l.close(t)
		var taken []uint64
		w := newInterceptor(accepting{&incoming{rpcs: make(chan raft.RPC)}}, interceptorConfig{
			evidence: newEvidence(),
			term:     func() uint64 { return 1 },
			acknowledged: func(id raft.ServerID, request *raft.AppendEntriesRequest) {
				if n := len(request.Entries); n > 0 && id == "2" {
					taken = append(taken, request.Entries[n-1].Index)
				}
			},
			log: l.aheadLog,
		})
		send := func(entries ...*raft.Log) error {
			return w.AppendEntries("2", "b:1", &raft.AppendEntriesRequest{Term: 1, Entries: entries}, &raft.AppendEntriesResponse{})
		}
		release := l.watched.bad.hang()
		l.put(t, noop(3))
		if err := errors.Join(send(), send(noop(1), noop(2))); err != nil {
			t.Errorf("a heartbeat, and what is stored: %v", err)
		}
		moment := w.config.evidence.begin()
		sent := during(func() error { return send(noop(2), noop(3)) })
		synctest.Wait()
		if len(sent) > 0 {
			t.Error("the acknowledgement did not wait for the disk")
		}
		if !w.config.evidence.since("2", 1, moment) {
			t.Error("a read has to wait for it")
		}
		if !slices.Equal(taken, []uint64{2, 3}) {
			t.Errorf("entries reported as stored = %d, want 2 and 3", taken)
		}
		release()
		if err := <-sent; err != nil {
			t.Error(err)
		}

		release = l.watched.bad.hang()
		defer release()
		l.put(t, noop(4))
		sent = during(func() error { return send(noop(4)) })
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-sent; err == nil {
			t.Error("the entry is acknowledged when the instance is closed")
		}
	})
}

// The entry is with the followers, and is not committed before the leader has it.
func TestWhatTheLeaderHasNotStoredIsNotCommitted(t *testing.T) {
	var stores []*badStore
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		store := newBadStore(t)
		stores = append(stores, store)
		config.open = func(string, *slog.Logger) (logstore.Store, error) { return store, nil }
		config.backend = "memory"
		config.timing = func(timing *Timing) { timing.ElectionTimeout = patience } // which a disk may take
	})
	leader := cluster[0]
	register(t, leader, "before")
	last := leader.raft.LastIndex()
	release := stores[0].hang()
	t.Cleanup(release)
	waiting := begin(t, leader, "waiting")
	for _, follower := range cluster[1:] {
		until(t, follower.config.ID+" has the entry", func() bool { return follower.raft.LastIndex() > last })
	}
	for range 20 { // round trips, in which they acknowledge it
		if _, err := leader.Read(within(t)); err != nil {
			t.Error(err)
		}
	}
	for _, i := range cluster {
		if committed := i.raft.CommitIndex(); committed > last {
			t.Errorf("%s has committed entry %d, which the leader has not stored", i.config.ID, committed)
		}
	}
	if len(waiting) > 0 {
		t.Error("the write was acknowledged")
	}
	release()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	mustHold(t, settled(t, leader), "before", "waiting")
}
