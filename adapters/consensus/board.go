package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// board is where this instance posts what it knows: the state machine what it
// applied, the leadership watch what raft says. Everybody reads it without a
// lock. Safe for concurrent use.
type board struct {
	posting sync.Mutex // held by who posts
	latest  atomic.Pointer[notice]
}

// notice is one posted state; it never changes.
type notice struct {
	ports.LocalState
	opened   bool      // raft runs, or has run
	judged   bool      // it is known whether this instance is in quarantine
	expelled bool      // this instance was told that it is no member any more
	foreseen uint64    // where its log says that it is to be a voter; 0 where it does not
	openTerm uint64    // term of the last opening applied
	written  int       // latest format that an applied entry took
	leads    bool      // raft says that this instance leads in Term
	elected  time.Time // when it was first seen to lead in Term
	led      time.Time // when it last heard from a majority in an earlier term that it led
	goal     uint64    // index to reach for being caught up; 0 while not known
	address  string    // by which raft says that it is reached; empty before it has started

	later chan struct{} // closed once there is a later notice
}

func newBoard(first ports.LocalState) *board {
	b := &board{}
	b.latest.Store(&notice{LocalState: first, later: make(chan struct{})})
	return b
}

func (b *board) read() *notice { return b.latest.Load() }

// post makes the next notice out of the latest one.
func (b *board) post(change func(*notice)) {
	b.posting.Lock()
	defer b.posting.Unlock()
	old := b.latest.Load()
	next := *old
	next.later = make(chan struct{})
	change(&next)
	// An entry of the leader's own term must be applied before it serves: only
	// then has it all that was committed before its time.
	next.Leading = next.leads && next.openTerm == next.Term && next.DiskTrouble == "" && !next.Closed
	next.CaughtUp = next.CaughtUp || next.Leading || next.goal > 0 && next.Applied >= next.goal
	b.latest.Store(&next)
	close(old.later)
}
