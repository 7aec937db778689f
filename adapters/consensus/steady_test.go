package consensus

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Raft's main goroutine may be about to enter a later term.
func TestAHeartbeatThatChangesTheTermIsLeftToRaftsMainGoroutine(t *testing.T) {
	for name, test := range map[string]struct {
		term   uint64
		beside bool
	}{
		"a heartbeat of this term":    {7, true},
		"a heartbeat of a later term": {8, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := &incoming{rpcs: make(chan raft.RPC)}
				w := newInterceptor(inner, interceptorConfig{
					evidence: newEvidence(),
					term:     func() uint64 { return 7 },
					isSteady: func(term uint64) bool { return term <= 7 },
				})
				beside := make(chan raft.RPC, 1)
				w.SetHeartbeatHandler(func(rpc raft.RPC) { beside <- rpc })
				go inner.heartbeat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: test.term}})
				select {
				case <-w.Consumer():
					if test.beside {
						t.Error("the heartbeat waits for the main goroutine, want it handled beside")
					}
				case <-beside:
					if !test.beside {
						t.Error("the heartbeat is handled beside the main goroutine, want it to wait")
					}
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAHeartbeatThatWaitsIsAnsweredWhenTheInstanceIsClosed(t *testing.T) {
	inner := &incoming{rpcs: make(chan raft.RPC)}
	w := newInterceptor(inner, interceptorConfig{
		evidence: newEvidence(),
		term:     func() uint64 { return 7 },
		isSteady: func(uint64) bool { return false },
	})
	w.SetHeartbeatHandler(func(raft.RPC) { t.Error("the heartbeat is handled beside the main goroutine, want it to wait") })
	answer := make(chan raft.RPCResponse, 1)
	go inner.heartbeat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: 8}, RespChan: answer})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got.Error == nil {
		t.Errorf("answer = %+v, want an error", got)
	}
}

func TestOnlyAFollowerIsSteady(t *testing.T) {
	cluster := startCluster(t, 2, nil)
	leader := leaderOf(t, cluster)
	for _, i := range cluster {
		term, _ := i.leads()
		if got, want := i.isSteady(i.raft.CurrentTerm()), i != leader; got != want {
			t.Errorf("isSteady of %s in term %d = %v, want %v", i.config.ID, term, got, want)
		}
		if i.isSteady(i.raft.CurrentTerm() + 1) {
			t.Errorf("isSteady of %s for a later term = true, want false", i.config.ID)
		}
	}
}

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
		w.config.raising = raising
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
		w.config.fatal = func(err error) { halted <- err }
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
