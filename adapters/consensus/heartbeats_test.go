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

// wire receives the heartbeats that are sent. Those to a hanging voter wait there until a
// test answers them.
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
		t.Errorf("heartbeats sent = %v, want %v", w.sent, want)
	}
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

// startHeartbeats returns heartbeats that the test must end.
func startHeartbeats(t *testing.T, send func(heartbeat) error) (h *heartbeats, end func()) {
	running, stop := context.WithCancel(t.Context())
	h = newHeartbeats(running, send)
	return h, func() {
		stop()
		h.sending.Wait()
	}
}

// voters returns the voters that have a sending goroutine.
func (h *heartbeats) voters() []raft.ServerID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.senders))
}

func TestAHeartbeatThatIsOnItsWayIsFollowedByTheOneAskedForLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire("b")
		h, end := startHeartbeats(t, w.send)
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
		h, end := startHeartbeats(t, w.send)
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
			t.Errorf("voters with a goroutine = %v, want b and c", got)
		}
		close(w.hangs["b"])
		end()
	})
}

// Each failed heartbeat costs a dial.
func TestAVoterThatRefusesIsNotSentOneForEachRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		h, end := startHeartbeats(t, func(asked heartbeat) error { return errors.Join(w.send(asked), errCut) })
		for began := time.Now(); time.Since(began) < 10*heartbeatPause; <-time.After(heartbeatPause / 100) {
			h.ask(heartbeat{to: "b", term: 7})
		}
		if n := w.count(); n < 9 || n > 11 {
			t.Errorf("heartbeats sent in ten pauses = %d, want about 10", n)
		}
		began := time.Now()
		end()
		if took := time.Since(began); took != 0 {
			t.Errorf("the end took %v, want it not to wait for the pause", took)
		}
	})
}

// The loop is told neither of removed voters nor of the end of leadership.
func TestTheHeartbeatLoopEndsWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		h, end := startHeartbeats(t, w.send)
		h.ask(heartbeat{to: "b", term: 7})
		h.ask(heartbeat{to: "c", term: 7})
		synctest.Wait()
		<-time.After(heartbeatLinger * 9 / 10)
		h.ask(heartbeat{to: "c", term: 7})
		synctest.Wait()
		<-time.After(heartbeatLinger / 2)
		synctest.Wait()
		if got := h.voters(); !slices.Equal(got, []raft.ServerID{"c"}) {
			t.Errorf("voters with a goroutine = %v, want only c", got)
		}
		<-time.After(heartbeatLinger)
		synctest.Wait()
		if got := h.voters(); len(got) > 0 {
			t.Errorf("voters with a goroutine = %v, want none", got)
		}
		h.sending.Wait()
		h.ask(heartbeat{to: "b", term: 8})
		synctest.Wait()
		if n := w.count(); n != 4 {
			t.Errorf("heartbeats sent = %d, want 4: three before and one more", n)
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
		t.Error("leave = true with a pending heartbeat, want false")
	}
	<-next
	if !h.leave("b", next) || len(h.voters()) != 0 {
		t.Error("leave = false with nothing to send, want true")
	}
}

func TestAfterTheEndNoHeartbeatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire("b")
		h, end := startHeartbeats(t, w.send)
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
			t.Error("the end did not wait for the heartbeat in flight")
		default:
		}
		w.hangs["b"] <- nil
		<-ended
		w.mustHaveSent(t, heartbeat{to: "b", term: 7})
	})
}

// delayedAnswers is a transport on which heartbeats wait until a test has them answered.
type delayedAnswers struct {
	incoming
	answers map[raft.ServerID]chan struct{}
}

func (a *delayedAnswers) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	<-a.answers[id]
	resp.Term, resp.Success = args.Term, true
	return nil
}

func TestAHeartbeatOfAnEarlierRoundProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvidence()
		inner := &delayedAnswers{answers: map[raft.ServerID]chan struct{}{"b": make(chan struct{}), "c": make(chan struct{})}}
		inner.rpcs = make(chan raft.RPC)
		network := newInterceptor(inner, interceptorConfig{evidence: e, term: func() uint64 { return 7 }})
		h, end := startHeartbeats(t, func(asked heartbeat) error {
			return network.AppendEntries(asked.to, "", &raft.AppendEntriesRequest{Term: asked.term}, &raft.AppendEntriesResponse{})
		})
		leadership := newFakeLeadership()
		leadership.answer = func() {
			for _, voter := range []raft.ServerID{"b", "c"} {
				h.ask(heartbeat{to: voter, term: 7})
			}
		}
		g := &gate{leadership: leadership, evidence: e}
		first := doAsync(t.Context(), &g.rounds, g.prove)
		synctest.Wait()
		inner.answers["c"] <- struct{}{}
		if got := <-first; got.err != nil {
			t.Fatalf("first round, which a majority has answered = %v, want success", got.err)
		}
		second := doAsync(t.Context(), &g.rounds, g.prove)
		synctest.Wait()
		inner.answers["b"] <- struct{}{} // answers the heartbeat of the first round
		synctest.Wait()
		select {
		case got := <-second:
			t.Errorf("a heartbeat from before the second round proved it: %+v", got)
		default:
		}
		inner.answers["b"] <- struct{}{}
		if got := <-second; got.err != nil {
			t.Errorf("second round = %v, want success", got.err)
		}
		close(inner.answers["c"])
		g.rounds.end()
		end()
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
}
