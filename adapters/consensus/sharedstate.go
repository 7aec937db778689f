package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// sharedState holds what this instance knows: the state machine updates what it has
// applied, the leadership watch what raft says. Reading takes no lock. Safe for
// concurrent use.
type sharedState struct {
	updating sync.Mutex // serializes updates
	latest   atomic.Pointer[localState]
}

// localState is one version of the shared state. It never changes.
type localState struct {
	ports.LocalState
	opened   bool      // raft runs, or has run
	judged   bool      // it is known whether this instance is in quarantine
	expelled bool      // this instance was told that it is no longer a member
	foreseen uint64    // index of the log entry by which this instance is to be a voter; 0 if there is none
	openTerm uint64    // term of the last opening entry applied
	written  int       // latest format of any entry applied
	leads    bool      // raft says that this instance leads in Term
	elected  time.Time // when it was first seen to lead in Term
	led      time.Time // when it last heard from a majority, as the leader of an earlier term
	goal     uint64    // index to reach for being caught up; 0 while not known
	address  string    // by which raft says that it is reached; empty before raft has started

	later chan struct{} // closed once there is a later version
}

func newSharedState(first ports.LocalState) *sharedState {
	s := &sharedState{}
	s.latest.Store(&localState{LocalState: first, later: make(chan struct{})})
	return s
}

func (s *sharedState) read() *localState { return s.latest.Load() }

// update publishes a copy of the latest version that change has modified.
func (s *sharedState) update(change func(*localState)) {
	s.updating.Lock()
	defer s.updating.Unlock()
	old := s.latest.Load()
	next := *old
	next.later = make(chan struct{})
	change(&next)
	// A leader serves only once an entry of its own term is applied: only then has
	// it applied all that was committed before its term.
	next.Leading = next.leads && next.openTerm == next.Term && next.DiskTrouble == "" && !next.Closed
	next.CaughtUp = next.CaughtUp || next.Leading || next.goal > 0 && next.Applied >= next.goal
	s.latest.Store(&next)
	close(old.later)
}
