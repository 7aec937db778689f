package disk

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

// canLoseDirectory returns whether the directory is gone, for a test to set.
func (w *watchedDisk) canLoseDirectory() *atomic.Bool {
	gone := &atomic.Bool{}
	w.config.CheckPresent = func() error {
		if gone.Load() {
			return logstore.ErrDirectoryGone
		}
		return nil
	}
	return gone
}

func TestADirectoryThatIsGoneIsNoticedWhileNothingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		gone := w.canLoseDirectory()
		watched := async(func() bool { w.WatchDirectory(); return true })
		advanceTime(time.Minute)
		if fault := w.Fault(); fault != nil {
			t.Errorf("fault while the directory is there = %v, want none", fault)
		}
		gone.Store(true)
		advanceTime(directoryCheckInterval)
		if fault := w.Fault(); !errors.Is(fault, logstore.ErrDirectoryGone) || !strings.Contains(fault.Error(), "find its directory") {
			t.Errorf("fault without the directory = %v, want ErrDirectoryGone", fault)
		}
		w.reportSuccess() // of a write that began when the directory was there
		if w.Fault() == nil {
			t.Error("fault after the write of a file that is gone too = nil, want one")
		}
		gone.Store(false)
		advanceTime(2 * retryPause)
		if fault := w.Fault(); fault != nil {
			t.Errorf("fault once the directory is back = %v, want none", fault)
		}
		w.close(t)
		<-watched
	})
}

func TestNothingIsWrittenWithoutTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		gone := w.canLoseDirectory()
		gone.Store(true)
		refused := async(func() error { return w.StoreLogs(entry(1)) })
		synctest.Wait()
		select {
		case err := <-refused:
			if !errors.Is(err, logstore.ErrDirectoryGone) {
				t.Errorf("StoreLogs = %v, want ErrDirectoryGone", err)
			}
		default:
			t.Error("StoreLogs is retried, although it is certain that nothing was written")
		}
		stored := async(func() error { return w.SetUint64(logstore.TermKey, 2) })
		advanceTime(10 * retryPause)
		last, _ := w.bad.LastIndex()
		if term, _ := w.bad.GetUint64(logstore.TermKey); len(stored) > 0 || term != 1 || last != 0 {
			t.Errorf("term = %d, last index = %d, want 1 and 0 as before", term, last)
		}
		gone.Store(false)
		if err := <-stored; err != nil {
			t.Error(err)
		}
	})
}

func TestTheTroubleThatIsToldOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		changes := 0
		w.config.Changed = func() { changes++ }
		mustTell := func(when, text string, troubles uint64, changed int) {
			t.Helper()
			if fault := w.Fault(); fault == nil || !strings.Contains(fault.Error(), text) {
				t.Errorf("%s: fault = %v, want %q", when, fault, text)
			}
			if got := w.Troubles(); got != troubles || changes != changed {
				t.Errorf("%s: troubles = %d, changes told = %d, want %d and %d", when, got, changes, troubles, changed)
			}
		}
		w.bad.Fail(syscall.EIO)
		w.reportFailure("fail", syscall.EIO)
		mustTell("a failure", "refuses", 1, 1)
		w.reportFailure("fail again", syscall.EIO)
		mustTell("a second failure", "refuses", 1, 1)
		<-time.After(time.Second)
		first := &storeOperation{what: "hang first", began: time.Now()}
		<-time.After(time.Second)
		w.reportHang(&storeOperation{what: "hang second", began: time.Now()})
		mustTell("a hang behind a failure", "hang second", 2, 2)
		w.reportHang(first)
		mustTell("an earlier hang", "hang first", 2, 3)
		for range 20 { // whatever the order in which they are looked at
			w.mu.Lock()
			w.updateTrouble()
			w.mu.Unlock()
			mustTell("two hangs", "hang first", 2, changes)
		}
		w.close(t)
	})
}

// Nobody would wait for the probe.
func TestAFailureWhileTheInstanceIsClosedIsNoTrouble(t *testing.T) {
	w := watchDisk(t)
	w.close(t)
	w.reportFailure("write", syscall.EIO)
	if fault := w.Fault(); fault != nil || w.probeRunning {
		t.Errorf("fault = %v, a probe runs = %v, want neither", fault, w.probeRunning)
	}
}

func TestAProbeEndsBeforeTheStoreIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		w.bad.FailAppends(syscall.EIO)
		w.raftStarted.Store(false) // so that the error is returned
		if w.StoreLogs(entry(1)) == nil {
			t.Error("StoreLogs on a broken disk = nil, want an error")
		}
		release := w.bad.Hang()
		advanceTime(2 * retryPause)
		closed := async(w.Close)
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("the store was closed while the probe writes")
		}
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// The outcome of an entry is open for as long as either lasts.
func TestAWriteThatIsRetriedAndHangsIsStalledUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		isStalled := func() bool {
			select {
			case <-w.Stalled():
				return true
			default:
				return false
			}
		}
		w.bad.Fail(syscall.EIO)
		stored := async(func() error { return w.StoreLogs(entry(1)) })
		advanceTime(2 * retryPause)
		if !isStalled() {
			t.Error("a write that is retried does not count as stalled")
		}
		release := w.bad.Hang()
		advanceTime(2 * testHang)
		if !isStalled() {
			t.Error("a write that hangs does not count as stalled")
		}
		release()
		advanceTime(2 * retryPause)
		if !isStalled() || len(stored) > 0 {
			t.Error("a write that is still retried does not count as stalled")
		}
		w.bad.Fail(nil)
		if err := <-stored; err != nil || isStalled() {
			t.Errorf("StoreLogs = %v, stalled = %v, want neither", err, isStalled())
		}
		w.close(t)
	})
}

func TestAWriteThatSucceedsEndsTheTroubleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		w.bad.Fill(&logstore.NoRoomError{Directory: "/d"})
		if w.StoreLogs(entry(1)) == nil || w.Fault() == nil {
			t.Fatal("a full disk is no trouble")
		}
		w.bad.Fill(nil)
		if err := w.StoreLogs(entry(1)); err != nil || w.Fault() != nil {
			t.Errorf("StoreLogs = %v, fault = %v, want neither", err, w.Fault())
		}
	})
}

// Without a term there is nothing that a probe could write.
func TestAProbeWithoutATermIsNoSuccess(t *testing.T) {
	w := newWatch(logstoretest.NewFaulty(t, memory.Open), Config{CheckPresent: func() error { return nil }})
	defer w.Close()
	if err := w.probeWrite(); err == nil {
		t.Error("probe of an empty store = nil, want an error")
	}
}

// Otherwise the probe might write a term back that raft has just raised.
func TestTheStableStateIsWrittenByOneAtATime(t *testing.T) {
	for name, write := range map[string]func(*watchedDisk) error{
		"a probe": func(w *watchedDisk) error { return w.probeWrite() },
		"a term":  func(w *watchedDisk) error { return w.SetUint64(logstore.TermKey, 7) },
		"a vote":  func(w *watchedDisk) error { return w.Set(logstore.VoteCandidateKey, []byte("other:1")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				defer w.close(t)
				w.stable <- struct{}{} // as another one that writes
				wrote := async(func() error { return write(w) })
				synctest.Wait()
				if len(wrote) > 0 {
					t.Error("the write did not wait for the other one")
				}
				if err := w.backend.SetUint64(logstore.TermKey, 7); err != nil {
					t.Fatal(err)
				}
				<-w.stable
				if err := <-wrote; err != nil {
					t.Error(err)
				}
				if term, err := w.GetUint64(logstore.TermKey); err != nil || term != 7 {
					t.Errorf("term = %d, %v, want 7", term, err)
				}
			})
		})
	}
}

func TestWhoIsToldOfAnAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		var appended []*raft.Log
		var took []time.Duration
		w.config.Appended = func(entries []*raft.Log) { appended = append(appended, entries...) }
		w.config.Stored = func(d time.Duration) { took = append(took, d) }
		w.bad.Fill(&logstore.NoRoomError{Directory: "/d"})
		if w.StoreLogs(entry(1)) == nil || len(appended)+len(took) > 0 {
			t.Errorf("a refused append: told of %v that took %v, want nothing", appended, took)
		}
		w.bad.Fill(nil)
		release := w.bad.Hang()
		time.AfterFunc(testHang/2, release)
		if err := w.StoreLogs(entry(1)); err != nil {
			t.Fatal(err)
		}
		if len(appended) != 1 || appended[0].Index != 1 || len(took) != 1 || took[0] != testHang/2 {
			t.Errorf("told of %v that took %v, want entry 1 after %v", appended, took, testHang/2)
		}
	})
}
