package consensus

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// evidence records what the voters have acknowledged: for each, the latest AppendEntries
// of this instance that it accepted, with its term and the moment in which it was sent.
//
// A moment is a count, not a time: every read-gate round begins a new one, and a request
// belongs to the moment in which it was sent. A response to a request of an earlier
// moment proves nothing to the round, however late it arrives. Safe for concurrent use.
type evidence struct {
	moment atomic.Uint64

	mu    sync.Mutex
	acks  map[raft.ServerID]ack
	fresh chan struct{} // holds a token when there is something new
}

type ack struct {
	term   uint64
	moment uint64    // in which the acknowledged request was sent
	sent   time.Time // when that was
	at     time.Time // when the answer came in
}

func newEvidence() *evidence {
	return &evidence{acks: map[raft.ServerID]ack{}, fresh: make(chan struct{}, 1)}
}

// begin starts a new moment: requests sent from now on belong to it or a later one.
func (e *evidence) begin() uint64 { return e.moment.Add(1) }

// now returns the current moment. It must be called before a request is sent, never after.
func (e *evidence) now() uint64 { return e.moment.Load() }

// acknowledged records that id accepted, in term, a request that was sent in moment.
func (e *evidence) acknowledged(id raft.ServerID, term, moment uint64, sent time.Time) {
	e.mu.Lock()
	old := e.acks[id]
	if term > old.term || term == old.term && moment >= old.moment {
		e.acks[id] = ack{term: term, moment: moment, sent: sent, at: time.Now()}
	}
	e.mu.Unlock()
	select {
	case e.fresh <- struct{}{}:
	default:
	}
}

// since says whether id accepted, in term, a request sent in moment or later.
func (e *evidence) since(id raft.ServerID, term, moment uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.acks[id]
	return a.term == term && a.moment >= moment
}

// majorityAt returns the latest time such that at least needed of ids accepted, in term, a
// request sent then or later; zero for never.
func (e *evidence) majorityAt(ids []raft.ServerID, needed int, term uint64) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	var sent []time.Time
	for _, id := range ids {
		if a := e.acks[id]; a.term == term {
			sent = append(sent, a.sent)
		}
	}
	if needed > len(sent) {
		return time.Time{}
	}
	slices.SortFunc(sent, func(a, b time.Time) int { return b.Compare(a) })
	return sent[needed-1]
}

// lastHeard returns when id last accepted a request; zero for never.
func (e *evidence) lastHeard(id raft.ServerID) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.acks[id].at
}
