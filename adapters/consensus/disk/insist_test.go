package disk

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// Other writes that succeed meanwhile change nothing: without this write, raft's view of the
// log would be wrong.
func TestAWriteWhoseErrorRaftIgnoresIsRetriedUntilItSucceeds(t *testing.T) {
	membership := []*raft.Log{{Index: 3, Term: 1, Type: raft.LogConfiguration}}
	for name, test := range map[string]struct {
		breaks func(*logstoretest.Faulty)
		write  func(*watchedDisk) error
	}{
		"entries, of which some may have been written": {
			breaks: func(s *logstoretest.Faulty) { s.FailAppends(syscall.EIO) },
			write:  func(w *watchedDisk) error { return w.StoreLogs(entry(3)) },
		},
		"a membership without room": {
			breaks: func(s *logstoretest.Faulty) { s.Fill(&logstore.NoRoomError{Directory: "/d"}) },
			write:  func(w *watchedDisk) error { return w.StoreLogs(membership) },
		},
		"entries without room, after the end of the log was removed": {
			breaks: func(s *logstoretest.Faulty) { s.Fill(&logstore.NoRoomError{Directory: "/d"}) },
			write: func(w *watchedDisk) error {
				return errors.Join(w.DeleteRange(2, 2), w.StoreLogs(entry(2)))
			},
		},
		"the removal of the end of the log": {
			breaks: func(s *logstoretest.Faulty) { s.FailAppends(syscall.EIO) },
			write:  func(w *watchedDisk) error { return w.DeleteRange(2, 2) },
		},
		"the removal of more than the log has": {
			breaks: func(s *logstoretest.Faulty) { s.FailAppends(syscall.EIO) },
			write:  func(w *watchedDisk) error { return w.DeleteRange(1, 10) },
		},
		"entries without room, after more than the log had was removed": {
			breaks: func(s *logstoretest.Faulty) { s.Fill(&logstore.NoRoomError{Directory: "/d"}) },
			write: func(w *watchedDisk) error {
				return errors.Join(w.DeleteRange(1, 10), w.StoreLogs(entry(3)))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				defer w.close(t)
				if err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2))); err != nil {
					t.Fatal(err)
				}
				test.breaks(w.bad)
				written := w.mustKeepTrying(t, test.write)
				w.bad.Fill(nil)
				w.bad.FailAppends(nil)
				if err := <-written; err != nil {
					t.Error(err)
				}
				advanceTime(2 * retryPause)
				if fault := w.Fault(); fault != nil {
					t.Errorf("fault after the write = %v, want none", fault)
				}
				select {
				case <-w.Stalled():
					t.Error("the disk still counts as stalled after the write")
				default:
				}
			})
		})
	}
}

// Raft copes with the failure of these writes.
func TestAWriteWhoseErrorRaftHandlesFailsAtOnce(t *testing.T) {
	noRoom := &logstore.NoRoomError{Directory: "/d"}
	for name, test := range map[string]struct {
		breaks func(*logstoretest.Faulty)
		write  func(*watchedDisk) error
		err    error
	}{
		"entries without room, after the end of the log was replaced": {
			breaks: func(s *logstoretest.Faulty) { s.Fill(noRoom) },
			write:  func(w *watchedDisk) error { return w.StoreLogs(entry(4)) },
			err:    noRoom,
		},
		"the removal of the beginning of the log": {
			breaks: func(s *logstoretest.Faulty) { s.FailAppends(syscall.EIO) },
			write:  func(w *watchedDisk) error { return w.DeleteRange(1, 2) },
			err:    syscall.EIO,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				defer w.close(t)
				err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2)), w.StoreLogs(entry(3)))
				if err := errors.Join(err, w.DeleteRange(3, 3), w.StoreLogs(entry(3))); err != nil {
					t.Fatal(err)
				}
				test.breaks(w.bad)
				ended := async(func() error { return test.write(w) })
				synctest.Wait()
				select {
				case err := <-ended:
					if !errors.Is(err, test.err) {
						t.Errorf("write = %v, want the error of the disk", err)
					}
				default:
					t.Error("the write is retried, want it to fail at once")
				}
				w.bad.Fill(nil)
				w.bad.FailAppends(nil)
			})
		})
	}
}

func TestBeforeRaftHasStartedAWriteThatFailsIsNotRetried(t *testing.T) {
	for name, write := range map[string]func(*watchedDisk) error{
		"entries":                           func(w *watchedDisk) error { return w.StoreLogs(entry(2)) },
		"the removal of the end of the log": func(w *watchedDisk) error { return w.DeleteRange(1, 1) },
		"a term":                            func(w *watchedDisk) error { return w.SetUint64(logstore.TermKey, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				if err := w.StoreLogs(entry(1)); err != nil {
					t.Fatal(err)
				}
				w.raftStarted.Store(false)
				w.bad.Fail(syscall.EIO)
				w.bad.FailAppends(syscall.EIO)
				ended := async(func() error { return write(w) })
				synctest.Wait()
				select {
				case err := <-ended:
					if !errors.Is(err, syscall.EIO) {
						t.Errorf("write = %v, want the error of the disk", err)
					}
				default:
					t.Error("the write is retried, want it to fail at once")
				}
				if w.truncated.Load() {
					t.Error("the end of the log counts as removed")
				}
				w.bad.Fail(nil)
				w.bad.FailAppends(nil)
				w.close(t)
			})
		})
	}
}

// Nothing is gone that raft counts on.
func TestTheRemovalOfNothingIsNotTheEndOfTheLog(t *testing.T) {
	w := watchDisk(t)
	defer w.close(t)
	if err := w.DeleteRange(1, 5); err != nil || w.truncated.Load() {
		t.Errorf("DeleteRange on an empty log = %v, the end counts as removed = %v, want neither", err, w.truncated.Load())
	}
}

// A follower uses a membership only when it is stored. It does not wait for room, so that it
// can still vote.
func TestAFollowerRefusesAMembershipThatThereIsNoRoomFor(t *testing.T) {
	w := watchDisk(t)
	defer w.close(t)
	w.config.Leads = func() bool { return false }
	w.bad.Fill(&logstore.NoRoomError{Directory: "/d"})
	refused := w.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration}})
	if !errors.As(refused, new(*logstore.NoRoomError)) {
		t.Errorf("StoreLogs = %v, want a NoRoomError", refused)
	}
	w.bad.Fill(nil)
}
