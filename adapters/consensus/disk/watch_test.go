package disk

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

const (
	testHang  = time.Second
	testBatch = 256
)

// watchedDisk is a disk over a faulty store, with its log output.
type watchedDisk struct {
	*watch
	bad  *logstoretest.Faulty
	said *bytes.Buffer // must be read only when the disk is closed
}

func watchDisk(t *testing.T) *watchedDisk {
	w := &watchedDisk{bad: logstoretest.NewFaulty(t, memory.Open), said: &bytes.Buffer{}}
	w.watch = newWatch(w.bad, Config{
		HangAfter:    testHang,
		MaxBatch:     testBatch,
		OwnAddress:   []byte("self:1"),
		Leads:        func() bool { return true },
		Verify:       func(*raft.Log) error { return nil },
		CheckPresent: func() error { return nil },
		Logger:       slog.New(slog.NewTextHandler(w.said, nil)),
		Appended:     func([]*raft.Log) {},
		Changed:      func() {},
		Fatal:        func(error) {},
	})
	if err := w.SetUint64(logstore.TermKey, 1); err != nil {
		t.Fatal(err)
	}
	w.RaftStarted()
	return w
}

func (w *watchedDisk) close(t *testing.T) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func (w *watchedDisk) mustSay(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Count(w.said.String(), text) != 1 {
			t.Errorf("log does not contain %q exactly once:\n%s", text, w.said)
		}
	}
}

// mustKeepTrying starts write, which must not return while the disk is in trouble, and
// returns the channel with its result.
func (w *watchedDisk) mustKeepTrying(t *testing.T, write func(*watchedDisk) error) <-chan error {
	t.Helper()
	written := async(func() error { return write(w) })
	advanceTime(time.Hour)
	select {
	case err := <-written:
		t.Fatalf("the write ended with %v, want it to hang", err)
	default:
	}
	if w.Fault() == nil {
		t.Error("fault = nil, want trouble with the disk")
	}
	return written
}

// advanceTime waits in the bubble's fake time, and lets all goroutines settle.
func advanceTime(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func entry(index uint64) []*raft.Log { return []*raft.Log{{Index: index, Term: 1}} }

func TestADiskThatHangsIsInTroubleUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		release := w.bad.Hang()
		stuck := w.Stalled()
		stored := make(chan error, 1)
		go func() { stored <- w.StoreLogs(entry(1)) }()
		advanceTime(testHang - time.Millisecond)
		if fault := w.Fault(); fault != nil {
			t.Errorf("fault before the disk counts as hanging = %v, want none", fault)
		}
		advanceTime(2 * time.Millisecond)
		if fault := w.Fault(); fault == nil || !strings.Contains(fault.Error(), "does not answer: it was asked to store log entries at 2000-01-01T00:00:00Z") {
			t.Errorf("fault = %v, want one that says what the disk was asked to store", fault)
		}
		<-stuck
		release()
		if err := <-stored; err != nil {
			t.Error(err)
		}
		if fault := w.Fault(); fault != nil {
			t.Errorf("fault after the disk answered = %v, want none", fault)
		}
		select {
		case <-w.Stalled():
			t.Error("the write is still reported as hanging")
		default:
		}
		if got := w.Troubles(); got != 1 {
			t.Errorf("troubles = %d, want 1", got)
		}
		w.close(t)
		w.mustSay(t, "the disk does not answer", "the disk answers again")
	})
}

// Nothing would clear the fault again.
func TestAWriteThatHasJustEndedIsNotReportedAsHanging(t *testing.T) {
	w := watchDisk(t)
	defer w.close(t)
	w.reportHang(&storeOperation{what: opStoreEntries, over: true})
	if fault := w.Fault(); fault != nil {
		t.Errorf("fault after the write ended = %v, want none", fault)
	}
}

func TestADiskThatRefusesIsInTroubleUntilItCanBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		if err := w.SetUint64(logstore.TermKey, 7); err != nil {
			t.Fatal(err)
		}
		w.bad.Fail(syscall.EIO)
		stored := make(chan error, 1)
		go func() { stored <- w.StoreLogs(entry(1)) }()
		advanceTime(10 * retryPause)
		if fault := w.Fault(); fault == nil || !errors.Is(fault, syscall.EIO) || !strings.Contains(fault.Error(), "store log entries") {
			t.Errorf("fault = %v, want one that says what the disk was asked to store", fault)
		}
		w.bad.Fail(nil)
		if err := <-stored; err != nil {
			t.Errorf("StoreLogs once the disk can be written = %v, want success", err)
		}
		advanceTime(2 * retryPause)
		if fault := w.Fault(); fault != nil {
			t.Errorf("fault once the disk can be written = %v, want none", fault)
		}
		if term, err := w.GetUint64(logstore.TermKey); err != nil || term != 7 {
			t.Errorf("term = %d, %v, want 7", term, err)
		}
		w.close(t)
		w.mustSay(t, "the disk refuses", "the disk can be written again")
	})
}

func TestAFullDiskIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		full := &logstore.NoRoomError{Directory: "/d", Free: 1 << 10, Needed: 4 << 20}
		w.bad.Fill(full)
		cached := &entryCache{watch: w.watch}
		err := cached.StoreLogs(entry(1))
		if refused := new(logstore.NoRoomError); !errors.As(err, &refused) {
			t.Errorf("StoreLogs through the cache = %v, want a NoRoomError", err)
		}
		if last, err := w.LastIndex(); last != 0 || err != nil {
			t.Errorf("LastIndex = %d, %v, want 0", last, err)
		}
		if err := w.SetUint64(logstore.TermKey, 2); err != nil {
			t.Errorf("SetUint64 of the term on a full disk = %v, want success", err)
		}
		advanceTime(10 * retryPause)
		if w.Fault() == nil {
			t.Error("fault without room = nil, want trouble")
		}
		w.bad.Fill(nil)
		advanceTime(2 * retryPause)
		if fault := w.Fault(); fault != nil {
			t.Errorf("fault with room again = %v, want none", fault)
		}
		w.close(t)
	})
}

// Raft panics if it can't store its term or its vote.
func TestATermIsStoredForAsLongAsItTakes(t *testing.T) {
	for name, set := range map[string]func(*watchedDisk) error{
		"the term": func(w *watchedDisk) error { return w.SetUint64(logstore.TermKey, 2) },
		"a vote":   func(w *watchedDisk) error { return w.Set(logstore.VoteCandidateKey, []byte("other:1")) },
		"an entry behind the removed end of the log": func(w *watchedDisk) error { return w.StoreLogs(entry(2)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				if err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2)), w.DeleteRange(2, 2)); err != nil {
					t.Fatal(err)
				}
				w.bad.Fail(syscall.ENOSPC)
				stored := w.mustKeepTrying(t, set)
				w.bad.Fail(nil)
				if err := <-stored; err != nil {
					t.Error(err)
				}
				w.close(t)
			})
		})
	}
}

func TestAWriteThatWaitsForTheDiskIsNotAcknowledgedWhenTheInstanceIsClosed(t *testing.T) {
	for name, set := range map[string]func(*watchedDisk){
		"a write of the term":          func(w *watchedDisk) { _ = w.SetUint64(logstore.TermKey, 2) },
		"a write of a vote for itself": func(w *watchedDisk) { _ = w.Set(logstore.VoteCandidateKey, []byte("self:1")) },
		"an append behind one that failed": func(w *watchedDisk) {
			w.bad.Fill(nil)
			_ = w.StoreLogs(entry(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				w.bad.Fill(&logstore.NoRoomError{Directory: "/d"})
				if w.StoreLogs(entry(1)) == nil {
					t.Error("StoreLogs on a full disk = nil, want an error")
				}
				w.bad.Fail(syscall.ENOSPC)
				ended, went := make(chan struct{}), false
				go func() {
					defer close(ended)
					set(w)
					went = true
				}()
				synctest.Wait()
				w.StopRetrying()
				<-ended
				if went {
					t.Error("the call returned as if the value had been stored")
				}
				w.close(t)
			})
		})
	}
}

func TestAnInstanceInTroubleDoesNotVoteForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		w.bad.Fill(&logstore.NoRoomError{Directory: "/d"})
		if w.StoreLogs(entry(1)) == nil {
			t.Error("StoreLogs on a full disk = nil, want an error")
		}
		if err := w.Set(logstore.VoteCandidateKey, []byte("other:1")); err != nil {
			t.Errorf("vote for another candidate on a full disk = %v, want success", err)
		}
		if err := w.Set([]byte("another key"), []byte("self:1")); err != nil {
			t.Errorf("Set of another value on a full disk = %v, want success", err)
		}
		voted := make(chan error, 1)
		go func() { voted <- w.Set(logstore.VoteCandidateKey, []byte("self:1")) }()
		advanceTime(time.Minute)
		select {
		case err := <-voted:
			t.Errorf("vote for itself on a full disk returned %v, want it to wait", err)
		default:
		}
		w.bad.Fill(nil)
		if err := <-voted; err != nil {
			t.Error(err)
		}
		w.close(t)
	})
}

// misplacedEntries is a store that returns another entry than it was asked for.
type misplacedEntries struct{ logstore.Store }

func (s misplacedEntries) GetLog(index uint64, log *raft.Log) error {
	return s.Store.GetLog(index+1, log)
}

// Raft would send it to others.
func TestAnEntryThatIsNotAsItWasWrittenIsNotGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		w.raftStarted.Store(false) // so that the error is returned
		if err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2))); err != nil {
			t.Fatal(err)
		}
		damaged := errors.New("damaged")
		w.config.Verify = func(entry *raft.Log) error {
			if entry.Index == 2 {
				return damaged
			}
			return nil
		}
		var got raft.Log
		if err := w.GetLog(1, &got); err != nil {
			t.Errorf("GetLog(1) = %v, want success", err)
		}
		if err := w.GetLog(2, &got); err != damaged {
			t.Errorf("GetLog(2) = %v, want the error of Verify", err)
		}
		w.config.Verify = func(*raft.Log) error { return nil }
		w.backend = misplacedEntries{w.bad}
		if err := w.GetLog(1, &got); err == nil || !strings.Contains(err.Error(), "entry 2") {
			t.Errorf("GetLog(1) of a store that returns entry 2 = %v, want an error that says so", err)
		}
	})
}

// unreadableEntries is a store whose entries can't be read.
type unreadableEntries struct{ logstore.Store }

func (unreadableEntries) GetLog(uint64, *raft.Log) error { return syscall.EIO }

// closedStore is a store that is closed.
type closedStore struct{ logstore.Store }

func (closedStore) GetLog(uint64, *raft.Log) error { return logstore.ErrClosed }

func TestAnEntryThatIsMissingOrOfAClosedStoreHaltsNothing(t *testing.T) {
	w := watchDisk(t)
	defer w.close(t)
	w.config.Fatal = func(err error) { t.Errorf("the instance is halted: %v", err) }
	var got raft.Log
	look := func() error { return <-async(func() error { return w.GetLog(5, &got) }) }
	if err := look(); err != raft.ErrLogNotFound {
		t.Errorf("GetLog of a missing entry = %v, want ErrLogNotFound", err)
	}
	w.backend = closedStore{w.bad}
	if err := look(); err != logstore.ErrClosed {
		t.Errorf("GetLog of a closed store = %v, want ErrClosed", err)
	}
}

func TestAnEntryThatCannotBeReadHaltsTheInstance(t *testing.T) {
	halted := make(chan error, 1)
	d := newWatch(unreadableEntries{logstoretest.NewFaulty(t, memory.Open)}, Config{
		HangAfter:    testHang,
		CheckPresent: func() error { return nil },
		Logger:       slog.New(slog.DiscardHandler),
		Appended:     func([]*raft.Log) {},
		Changed:      func() {},
		Fatal:        func(err error) { halted <- err },
	})
	var entry raft.Log
	if err := d.GetLog(5, &entry); !errors.Is(err, syscall.EIO) || len(halted) > 0 {
		t.Errorf("GetLog before raft has started = %v, want the error and no halt", err)
	}
	d.RaftStarted()
	ended, told := make(chan struct{}), false
	go func() {
		defer close(ended)
		_ = d.GetLog(5, &entry)
		told = true
	}()
	<-ended
	if told {
		t.Error("GetLog returned to raft, which panics on the error")
	}
	if err := <-halted; !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "log entry 5 can't be read") {
		t.Errorf("fatal was called with %v, want EIO and log entry 5", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// To try again would be of no use, and raft waits meanwhile.
func TestEntriesThatAreDamagedAndMustBeRemovedHaltTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		halted := make(chan error, 1)
		w.config.Fatal = func(err error) { halted <- err }
		if err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2))); err != nil {
			t.Fatal(err)
		}
		damaged := logstore.Damage("an entry is lost")
		w.bad.FailAppends(damaged)
		if err := w.DeleteRange(1, 1); err != damaged || len(halted) > 0 {
			t.Errorf("DeleteRange of the beginning of the log = %v, want the error and no halt", err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = w.DeleteRange(2, 2)
			t.Error("DeleteRange returned to raft, which goes on after an error")
		}()
		advanceTime(time.Hour)
		select {
		case err := <-halted:
			if !errors.Is(err, damaged) || !strings.Contains(err.Error(), "log entries 2 to 2 can't be removed") {
				t.Errorf("fatal was called with %v, want the damage and which entries", err)
			}
		default:
			t.Error("fatal was not called")
			w.bad.FailAppends(nil)
		}
		<-ended
	})
}
