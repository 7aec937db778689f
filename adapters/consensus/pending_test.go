package consensus

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Writes that come faster than they can be stored are refused before they fill the memory.
func TestMoreBytesThanFitAreRefused(t *testing.T) {
	free := make(chan struct{})
	release := sync.OnceFunc(func() { close(free) })
	defer release()
	var blocked atomic.Bool
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true, hooks: testHooks{
		fsm: func(m *machine) raft.FSM {
			return blockableFSM{m, &blocked, free}
		},
	}})
	i.eventually(t, "leading", leading)
	// The entry that a new leader writes by itself counts as pending until it is answered.
	until(t, "no write is pending", func() bool { return i.writes.pending.Load() == 0 })
	blocked.Store(true)

	// As if many bytes were pending already.
	cmd := domain.Register{Node: node(t, "a", "h:1")}
	const proposals, fit = 10, 3
	elsewhere := maxPending - fit*int64(len(codec.EncodeEntry(cmd)))
	i.writes.pending.Add(elsewhere)
	var proposing sync.WaitGroup
	var busy, other atomic.Int64
	for range proposals {
		proposing.Go(func() {
			switch _, err := i.Propose(within(t), cmd); {
			case errors.Is(err, ports.ErrBusy):
				busy.Add(1)
			case err != nil:
				other.Add(1)
				t.Errorf("Propose = %v, want success or ErrBusy", err)
			}
		})
	}
	deadline := time.Now().Add(patience)
	for busy.Load() < proposals-fit && other.Load() == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("refused proposals = %d, want all but %d of %d", busy.Load(), fit, proposals)
		}
		runtime.Gosched()
	}
	release()
	proposing.Wait()
	if refused := busy.Load(); refused != proposals-fit {
		t.Errorf("refused proposals = %d, want all but %d of %d", refused, fit, proposals)
	}
	if pending := i.writes.pending.Load(); pending != elsewhere {
		t.Errorf("pending bytes when all is answered = %d, want none", pending-elsewhere)
	}
	register(t, i, "b") // the answered writes have made room
	i.inflight.mu.Lock()
	inside := i.inflight.count
	i.inflight.mu.Unlock()
	if inside != 0 {
		t.Errorf("callers that Close would wait for = %d, want none", inside)
	}
}

// Writes that go together are one entry of the log, but each gets its own answer.
func TestWritersOfASharedEntryGetTheirOwnAnswers(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading", leading)
	until(t, "no write is pending", func() bool { return i.writes.pending.Load() == 0 })
	writes := make([]*write, 3)
	for n, cmd := range []domain.Command{
		domain.Register{Node: node(t, "a", "h:1")},
		domain.Register{Node: node(t, "b", "h:1")},
		domain.Register{Node: node(t, "c", "h:3")},
	} {
		writes[n] = &write{entry: codec.EncodeEntry(cmd), done: make(chan struct{})}
		i.inflight.enter()
		i.writes.pending.Add(int64(len(writes[n].entry)))
	}
	// As if the writes had come while another was in flight.
	i.writes.mu.Lock()
	i.writes.waiting = slices.Clone(writes)
	i.writes.send()
	i.writes.mu.Unlock()
	for n, w := range writes {
		<-w.done
		if refused := errors.Is(w.outcome.err, domain.ErrAddressInUse); w.err != nil || refused != (n == 1) {
			t.Errorf("write %d: error = %v, outcome = %v, want only the second refused", n, w.err, w.outcome.err)
		}
	}
	if last := writes[2].outcome.changes; len(last) != 1 || last[0].Revision != 2 || last[0].Node.ID != "c" {
		t.Errorf("changes of the last write = %+v, want c at revision 2", last)
	}
	var entry raft.Log
	if err := i.store.GetLog(i.raft.LastIndex(), &entry); err != nil {
		t.Fatal(err)
	}
	decoded, err := codec.DecodeEntry(entry.Data)
	if together, is := decoded.(codec.CommandGroup); err != nil || !is || len(together) != 3 {
		t.Errorf("last entry of the log = %+v, %v, want a group of three commands", decoded, err)
	}
}

// blockableFSM is a state machine that, while blocked is set, applies nothing before free is
// closed.
type blockableFSM struct {
	*machine
	blocked *atomic.Bool
	free    <-chan struct{}
}

func (b blockableFSM) ApplyBatch(entries []*raft.Log) []any {
	if b.blocked.Load() {
		<-b.free
	}
	return b.machine.ApplyBatch(entries)
}

// A refusal is promised within a second. Of that, refusalRoom is for everything beside the
// wait itself on a busy machine.
const refusalRoom = 150 * time.Millisecond

func TestWaitsBeforeARefusalLeaveRoomWithinASecond(t *testing.T) {
	for what, bound := range map[string]time.Duration{
		"the writes before, and a place in raft's queue": groupPatience + enqueueTimeout,
		"the leader's answer":                            askTimeout,
		"the leader's answer and every step before it":   answerTimeout,
	} {
		if room := time.Second - bound; room < refusalRoom {
			t.Errorf("wait for %s = %v, which leaves %v, want at least refusalRoom", what, bound, room)
		}
	}
}

// refusedInTime calls refused, which returns how long a refusal took, until one is in time.
// On a busy machine some may take longer than promised, but not all.
func refusedInTime(t *testing.T, refused func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		took = append(took, refused())
		if slices.Min(took) < time.Second-refusalRoom {
			return
		}
		if slices.Max(took) > patience/2 {
			break
		}
	}
	t.Errorf("every refusal took too long, the last one %v", took)
}
