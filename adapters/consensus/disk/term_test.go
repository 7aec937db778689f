package disk

import (
	"sync"
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
