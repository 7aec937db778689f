package consensus

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
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
