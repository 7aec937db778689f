package consensus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// fakeLeadership is the leadership of one of three voters, until a test changes it.
type fakeLeadership struct {
	mu       sync.Mutex
	term     uint64
	serving  bool
	commit   uint64
	provoked atomic.Int64
	changed  chan struct{}
	answer   func() // called when heartbeats are sent
	counting func() // called while the voters are counted; nil: nothing happens
	alone    bool   // this instance is the only voter
}

func newFakeLeadership() *fakeLeadership {
	return &fakeLeadership{term: 7, serving: true, commit: 42, changed: make(chan struct{}), answer: func() {}}
}

func (f *fakeLeadership) servingTerm() (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.term, f.serving
}

func (f *fakeLeadership) commitIndex() uint64 { return f.commit }

func (f *fakeLeadership) quorum() ([]raft.ServerID, int) {
	if f.counting != nil {
		f.counting()
	}
	if f.alone {
		return nil, 0
	}
	return []raft.ServerID{"b", "c"}, 1
}

func (f *fakeLeadership) sendHeartbeats([]raft.ServerID, uint64) {
	f.provoked.Add(1)
	f.answer()
}

func (f *fakeLeadership) watch() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeLeadership) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serving = false
	close(f.changed)
	f.changed = make(chan struct{})
}

func TestTheGateCountsOnlyWhatWasSentAfterTheReadCameIn(t *testing.T) {
	tests := map[string]struct {
		acknowledge func(e *evidence, before uint64)
		passes      bool
	}{
		"an answer to a heartbeat sent before proves nothing": {
			acknowledge: func(e *evidence, before uint64) { e.acknowledged("b", 7, before, time.Now()) },
		},
		"two answers to heartbeats sent before prove nothing": {
			acknowledge: func(e *evidence, before uint64) {
				e.acknowledged("b", 7, before, time.Now())
				e.acknowledged("c", 7, before, time.Now())
			},
		},
		"an answer to a heartbeat sent after makes a majority of three": {
			acknowledge: func(e *evidence, _ uint64) { e.acknowledged("b", 7, e.now(), time.Now()) },
			passes:      true,
		},
		"an answer of an earlier term proves nothing": {
			acknowledge: func(e *evidence, _ uint64) { e.acknowledged("b", 6, e.now(), time.Now()) },
		},
		"an answer of a later term proves nothing for this one": {
			acknowledge: func(e *evidence, _ uint64) { e.acknowledged("b", 8, e.now(), time.Now()) },
		},
		"an answer of an instance that does not vote proves nothing": {
			acknowledge: func(e *evidence, _ uint64) { e.acknowledged("nonvoter", 7, e.now(), time.Now()) },
		},
		"a late answer does not undo what a newer one proved": {
			acknowledge: func(e *evidence, before uint64) {
				e.acknowledged("b", 7, e.now(), time.Now())
				e.acknowledged("b", 7, before, time.Now())
			},
			passes: true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leadership, e := newFakeLeadership(), newEvidence()
				g := &gate{leadership: leadership, evidence: e}
				before := e.now() // a heartbeat is sent before the read comes in
				leadership.answer = func() { test.acknowledge(e, before) }
				ctx, cancel := context.WithCancel(t.Context())
				var index uint64
				err := errors.New("the gate has not answered")
				go func() { index, err = g.readIndex(ctx) }()
				synctest.Wait()
				if passed := err == nil; passed != test.passes {
					t.Errorf("gate passed = %v, want %v", passed, test.passes)
				}
				if test.passes && index != 42 {
					t.Errorf("index = %d, want 42, the commit index", index)
				}
				cancel()
				leadership.lose()
				g.rounds.end()
			})
		})
	}
}

// A slow round may count the voters of a later term, in which this instance leads again,
// while it has the commit index of an earlier term, whose end it did not notice.
func TestTheVotersOfAnotherTermProveNothing(t *testing.T) {
	for name, counting := range map[string]func(*fakeLeadership){
		"leadership is lost meanwhile":              func(f *fakeLeadership) { f.serving = false },
		"leadership is lost and won back meanwhile": func(f *fakeLeadership) { f.term, f.commit = 9, 50 },
	} {
		t.Run(name, func(t *testing.T) {
			leadership := newFakeLeadership()
			leadership.alone = true
			leadership.counting = func() {
				leadership.mu.Lock()
				defer leadership.mu.Unlock()
				counting(leadership)
			}
			g := &gate{leadership: leadership, evidence: newEvidence()}
			if index, err := g.readIndex(within(t)); !errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("readIndex = %d, %v, want ErrNotLeader", index, err)
			}
			g.rounds.end()
		})
	}
}

func TestReadersShareARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leadership, e := newFakeLeadership(), newEvidence()
		g := &gate{leadership: leadership, evidence: e}
		const readers = 64
		var passed atomic.Int64
		read := func() {
			if _, err := g.readIndex(t.Context()); err == nil {
				passed.Add(1)
			}
		}
		go read()
		synctest.Wait()
		if n := leadership.provoked.Load(); n != 1 {
			t.Fatalf("rounds of a lone reader = %d, want 1 at once", n)
		}
		for range readers {
			go read()
		}
		synctest.Wait()
		if n := leadership.provoked.Load(); n != 1 {
			t.Fatalf("rounds begun while one was under way = %d, want 1 in all", n)
		}
		e.acknowledged("b", 7, e.now(), time.Now())
		synctest.Wait()
		if n := passed.Load(); n != 1 {
			t.Fatalf("readers that used the proof of the first = %d, want 1: the others came after it had begun", n)
		}
		e.acknowledged("c", 7, e.now(), time.Now())
		synctest.Wait()
		if n := passed.Load(); n != 1+readers {
			t.Fatalf("readers that passed = %d, want all", n)
		}
		if n := leadership.provoked.Load(); n != 2 {
			t.Errorf("rounds for all readers = %d, want 2", n)
		}
		g.rounds.end()
	})
}

func TestLosingLeadershipEndsTheRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leadership := newFakeLeadership()
		g := &gate{leadership: leadership, evidence: newEvidence()}
		failed := make(chan error, 1)
		go func() {
			_, err := g.readIndex(t.Context())
			failed <- err
		}()
		synctest.Wait()
		leadership.lose()
		if err := <-failed; !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("readIndex = %v, want ErrNotLeader", err)
		}
		if _, err := g.readIndex(t.Context()); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("later readIndex = %v, want ErrNotLeader", err)
		}
		g.rounds.end()
	})
}

func TestAReaderThatGivesUpLeavesTheOthersTheirRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leadership, e := newFakeLeadership(), newEvidence()
		g := &gate{leadership: leadership, evidence: e}
		shortTimeouts, cancel := context.WithCancel(t.Context())
		gaveUp, answered := make(chan error, 1), make(chan error, 1)
		go func() { _, err := g.readIndex(shortTimeouts); gaveUp <- err }()
		synctest.Wait()
		go func() { _, err := g.readIndex(t.Context()); answered <- err }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("readIndex that was given up = %v, want the context's error", err)
		}
		e.acknowledged("b", 7, e.now(), time.Now())
		synctest.Wait()
		e.acknowledged("b", 7, e.now(), time.Now())
		if err := <-answered; err != nil {
			t.Errorf("readIndex of the other reader = %v, want success", err)
		}
		g.rounds.end()
	})
}
