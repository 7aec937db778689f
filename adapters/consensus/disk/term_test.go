package disk

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// countingMutex counts how often it is locked.
type countingMutex struct {
	sync.Mutex
	times int
}

func (c *countingMutex) Lock() {
	c.Mutex.Lock()
	c.times++
}

// A heartbeat that is handled beside raft's main goroutine stores the current term, and must
// not wait for itself.
func TestOnlyALaterTermWaitsForHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		raising := &countingMutex{}
		w.config.Raising = raising
		for _, stored := range []struct {
			key   []byte
			value uint64
			times int
		}{
			{logstore.TermKey, 7, 1}, {logstore.TermKey, 7, 1}, {logstore.VoteTermKey, 7, 1}, {logstore.TermKey, 8, 2}, {logstore.VoteTermKey, 8, 2},
		} {
			if err := w.SetUint64(stored.key, stored.value); err != nil {
				t.Fatal(err)
			}
			if raising.times != stored.times {
				t.Errorf("waits for %s %d = %d, want %d", stored.key, stored.value, raising.times, stored.times)
			}
		}
	})
}

func TestATermThatWouldGoBackHaltsTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchDisk(t)
		defer w.close(t)
		halted := make(chan error, 1)
		w.config.Fatal = func(err error) { halted <- err }
		if err := w.SetUint64(logstore.TermKey, 7); err != nil {
			t.Fatal(err)
		}
		went, ended := false, make(chan struct{})
		go func() {
			defer close(ended)
			_ = w.SetUint64(logstore.TermKey, 6)
			went = true
		}()
		<-ended
		if went || len(halted) == 0 {
			t.Errorf("the write returned = %v, the instance is halted = %v, want false and true", went, len(halted) > 0)
		}
		if term, err := w.GetUint64(logstore.TermKey); err != nil || term != 7 {
			t.Errorf("term = %d, %v, want 7", term, err)
		}
	})
}

// writtenStable records what is written of the stable state.
type writtenStable struct {
	logstore.Store
	writes []string
	failAt string // the write that fails
}

func (s *writtenStable) note(write string) error {
	if write == s.failAt {
		return syscall.EIO
	}
	s.writes = append(s.writes, write)
	return nil
}

func (s *writtenStable) Set(key, value []byte) error {
	return errors.Join(s.note(fmt.Sprintf("%s %s", key, value)), s.Store.Set(key, value))
}

func (s *writtenStable) SetUint64(key []byte, value uint64) error {
	return errors.Join(s.note(fmt.Sprintf("%s %d", key, value)), s.Store.SetUint64(key, value))
}

// Raft stores the term of a vote first, and its candidate after that: in between the vote must
// not be for the candidate of the earlier one.
func TestTheTermOfAVoteErasesTheEarlierCandidateFirst(t *testing.T) {
	const erased, voted = "LastVoteCand nobody yet", "LastVoteTerm 7"
	tests := map[string]struct {
		set    func(*watch) error
		failAt string
		writes []string
	}{
		"the term of a vote": {
			set:    func(w *watch) error { return w.SetUint64(logstore.VoteTermKey, 7) },
			writes: []string{erased, voted},
		},
		"the term of a vote, if the candidate can't be erased": {
			set:    func(w *watch) error { return w.SetUint64(logstore.VoteTermKey, 7) },
			failAt: erased,
		},
		"the term of a vote that is stored": {
			set: func(w *watch) error {
				return errors.Join(w.SetUint64(logstore.VoteTermKey, 7), w.SetUint64(logstore.VoteTermKey, 7))
			},
			writes: []string{erased, voted},
		},
		"a term": {
			set:    func(w *watch) error { return w.SetUint64(logstore.TermKey, 7) },
			writes: []string{"CurrentTerm 7"},
		},
		"a term that is stored": {
			set: func(w *watch) error { return w.SetUint64(logstore.TermKey, 1) },
		},
		"an earlier term, before raft has started": {
			set: func(w *watch) error {
				return errors.Join(w.SetUint64(logstore.TermKey, 7), w.SetUint64(logstore.TermKey, 6))
			},
			writes: []string{"CurrentTerm 7", "CurrentTerm 6"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				defer w.close(t)
				w.raftStarted.Store(false) // so that errors are returned
				store := &writtenStable{Store: w.bad, failAt: test.failAt}
				w.backend = store
				halted := false
				w.config.Fatal = func(error) { halted = true }
				if err := <-async(func() error { return test.set(w.watch) }); (err != nil) != (test.failAt != "") || halted {
					t.Errorf("error = %v, the instance is halted = %v, want the error of the disk alone", err, halted)
				}
				if !slices.Equal(store.writes, test.writes) {
					t.Errorf("writes = %q, want %q", store.writes, test.writes)
				}
			})
		})
	}
}
