package consensus

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// wire is where a test's heartbeats go. Those to a voter that hangs stay there until a
// test gives their answer.
type wire struct {
	mu    sync.Mutex
	sent  []heartbeat
	hangs map[raft.ServerID]chan error
}

func newWire(hanging ...raft.ServerID) *wire {
	w := &wire{hangs: map[raft.ServerID]chan error{}}
	for _, id := range hanging {
		w.hangs[id] = make(chan error)
	}
	return w
}

func (w *wire) send(h heartbeat) error {
	w.mu.Lock()
	w.sent = append(w.sent, h)
	answer := w.hangs[h.to]
	w.mu.Unlock()
	if answer == nil {
		return nil
	}
	return <-answer
}

func (w *wire) mustHaveSent(t *testing.T, want ...heartbeat) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.sent, want) {
		t.Errorf("sent %v, want %v", w.sent, want)
	}
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

// started gives heartbeats that a test must end.
func started(t *testing.T, send func(heartbeat) error) (h *heartbeats, end func()) {
	running, stop := context.WithCancel(t.Context())
	h = newHeartbeats(running, send)
	return h, func() {
		stop()
		h.sending.Wait()
	}
}

// voters are those for whom there is a goroutine.
func (h *heartbeats) voters() []raft.ServerID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.senders))
}

func TestAHeartbeatThatIsOnItsWayIsFollowedByTheOneAskedForLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire("b")
		h, end := started(t, w.send)
		h.ask(heartbeat{to: "b", term: 7})
		w.mustHaveSent(t, heartbeat{to: "b", term: 7})
		h.ask(heartbeat{to: "b", term: 7})
		h.ask(heartbeat{to: "b", term: 8})
		w.mustHaveSent(t, heartbeat{to: "b", term: 7})
		w.hangs["b"] <- nil
		w.mustHaveSent(t, heartbeat{to: "b", term: 7}, heartbeat{to: "b", term: 8})
		w.hangs["b"] <- nil
		w.mustHaveSent(t, heartbeat{to: "b", term: 7}, heartbeat{to: "b", term: 8})
		end()
	})
}

func TestAVoterThatHangsCostsOneHeartbeatAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds = 100
		w := newWire("b")
		h, end := started(t, w.send)
		began, want := time.Now(), []heartbeat{{to: "b", term: 7}}
		for range rounds {
			h.ask(heartbeat{to: "b", term: 7})
			synctest.Wait()
			h.ask(heartbeat{to: "c", term: 7})
			want = append(want, heartbeat{to: "c", term: 7})
			w.mustHaveSent(t, want...)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the call took %v, want no time", took)
		}
		if got := h.voters(); !slices.Equal(got, []raft.ServerID{"b", "c"}) {
			t.Errorf("there are goroutines for %v, want one for each voter", got)
		}
		close(w.hangs["b"])
		end()
	})
}

// Each costs a dial.
func TestAVoterThatRefusesIsNotSentOneForEachRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		h, end := started(t, func(asked heartbeat) error { return errors.Join(w.send(asked), errCut) })
		for began := time.Now(); time.Since(began) < 10*heartbeatPause; <-time.After(heartbeatPause / 100) {
			h.ask(heartbeat{to: "b", term: 7})
		}
		if n := w.count(); n < 9 || n > 11 {
			t.Errorf("%d were sent in ten times the pause after one that fails", n)
		}
		began := time.Now()
		end()
		if took := time.Since(began); took != 0 {
			t.Errorf("the end waits out a pause, of %v", took)
		}
	})
}

// Nobody tells it of voters that were removed, nor of the end of leadership.
func TestTheHeartbeatLoopEndsWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		h, end := started(t, w.send)
		h.ask(heartbeat{to: "b", term: 7})
		h.ask(heartbeat{to: "c", term: 7})
		synctest.Wait()
		<-time.After(heartbeatLinger * 9 / 10)
		h.ask(heartbeat{to: "c", term: 7})
		synctest.Wait()
		<-time.After(heartbeatLinger / 2)
		synctest.Wait()
		if got := h.voters(); !slices.Equal(got, []raft.ServerID{"c"}) {
			t.Errorf("there are goroutines for %v, want one for c", got)
		}
		<-time.After(heartbeatLinger)
		synctest.Wait()
		if got := h.voters(); len(got) > 0 {
			t.Errorf("there are goroutines for %v", got)
		}
		h.sending.Wait()
		h.ask(heartbeat{to: "b", term: 8})
		synctest.Wait()
		if n := w.count(); n != 4 {
			t.Errorf("%d were sent, want those before and one more", n)
		}
		end()
	})
}

func TestAHeartbeatRequestedWhileTheLoopEndsIsSent(t *testing.T) {
	h := newHeartbeats(t.Context(), nil)
	next := make(chan heartbeat, 1)
	h.senders["b"] = next
	h.ask(heartbeat{to: "b", term: 7})
	if h.leave("b", next) || len(h.voters()) != 1 {
		t.Error("it goes, and leaves a heartbeat behind")
	}
	<-next
	if !h.leave("b", next) || len(h.voters()) != 0 {
		t.Error("it stays, with nothing to send")
	}
}

func TestAfterTheEndNoHeartbeatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire("b")
		h, end := started(t, w.send)
		h.ask(heartbeat{to: "b", term: 7})
		synctest.Wait()
		ended := make(chan struct{})
		go func() {
			end()
			close(ended)
		}()
		synctest.Wait()
		h.ask(heartbeat{to: "b", term: 7})
		h.ask(heartbeat{to: "c", term: 7})
		select {
		case <-ended:
			t.Error("the end did not wait for the one on its way")
		default:
		}
		w.hangs["b"] <- nil
		<-ended
		w.mustHaveSent(t, heartbeat{to: "b", term: 7})
	})
}

// delivery is a transport on which heartbeats wait for a test to have them accepted.
type delivery struct {
	incoming
	answers map[raft.ServerID]chan struct{}
}

func (a *delivery) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	<-a.answers[id]
	resp.Term, resp.Success = args.Term, true
	return nil
}

func TestAHeartbeatOfAnEarlierRoundProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvidence()
		inner := &delivery{answers: map[raft.ServerID]chan struct{}{"b": make(chan struct{}), "c": make(chan struct{})}}
		inner.rpcs = make(chan raft.RPC)
		network := newInterceptor(inner, interceptorConfig{evidence: e, term: func() uint64 { return 7 }})
		h, end := started(t, func(asked heartbeat) error {
			return network.AppendEntries(asked.to, "", &raft.AppendEntriesRequest{Term: asked.term}, &raft.AppendEntriesResponse{})
		})
		leadership := newFakeLeadership()
		leadership.answer = func() {
			for _, voter := range []raft.ServerID{"b", "c"} {
				h.ask(heartbeat{to: voter, term: 7})
			}
		}
		g := &gate{leadership: leadership, evidence: e}
		first := asker(t.Context(), &g.rounds, g.prove)
		synctest.Wait()
		inner.answers["c"] <- struct{}{}
		if got := <-first; got.err != nil {
			t.Fatalf("the first round, which a majority has answered: %v", got.err)
		}
		second := asker(t.Context(), &g.rounds, g.prove)
		synctest.Wait()
		inner.answers["b"] <- struct{}{} // to the first round's
		synctest.Wait()
		select {
		case got := <-second:
			t.Errorf("a heartbeat from before the round proved it: %+v", got)
		default:
		}
		inner.answers["b"] <- struct{}{}
		if got := <-second; got.err != nil {
			t.Errorf("the second round: %v", got.err)
		}
		close(inner.answers["c"])
		g.rounds.end()
		end()
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
}
