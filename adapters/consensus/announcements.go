package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// announceAfter is how long a leader waits for another write, which would tell the
// followers what is committed, before it tells them so without one.
const announceAfter = time.Millisecond

// announcements tell followers what is committed when no entry comes behind it. Raft
// 1.7.3 leaves that to a timer: until it is over a follower's streams say nothing of what
// was acknowledged, and its fresh reads wait. An announcement is what raft would send,
// an AppendEntries without entries. One that is lost is made up for by that timer. An
// entry that came alone is announced at once, since the next one will hardly come in
// time, either. Safe for concurrent use.
type announcements struct {
	leader  announcer
	senders *heartbeats
	timer   *time.Timer

	mu    sync.Mutex
	ended bool
	term  uint64 // of what follows
	has   map[raft.ServerID]reach
	last  uint64    // index of the latest entry that anybody has taken
	taken time.Time // when that was
	alone bool      // nothing was taken for a while before
}

// announcer is what announcements ask of raft. None of it blocks.
type announcer interface {
	leads() (term uint64, leads bool)
	commitIndex() uint64
	lastIndex() uint64
}

// reach is how far another instance is, as its leader knows.
type reach struct {
	last place  // of what it has acknowledged
	told uint64 // up to which index it was told what is committed
}

// place is where an entry is in the log.
type place struct{ index, term uint64 }

func newAnnouncements(running context.Context, leader announcer, send func(heartbeat) error) *announcements {
	a := &announcements{leader: leader, senders: newHeartbeats(running, send), has: map[raft.ServerID]reach{}}
	a.timer = time.AfterFunc(time.Hour, a.announce)
	a.timer.Stop()
	return a
}

// acknowledged is told what id has taken from this instance.
func (a *announcements) acknowledged(id raft.ServerID, request *raft.AppendEntriesRequest) {
	if n := len(request.Entries); n > 0 {
		a.note(id, request.Term, place{request.Entries[n-1].Index, request.Entries[n-1].Term})
		a.soon()
	} else if !isHeartbeat(request) {
		a.note(id, request.Term, place{request.PrevLogEntry, request.PrevLogTerm}) // perhaps from a snapshot
	}
}

// reached is up to which index id is known to have the log that this instance leads with.
func (a *announcements) reached(id raft.ServerID) uint64 {
	term, leads := a.leader.leads()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !leads || term != a.term {
		return 0
	}
	return a.has[id].last.index
}

func (a *announcements) note(id raft.ServerID, term uint64, last place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if term > a.term {
		a.term, a.last = term, 0
		clear(a.has) // another leader may have replaced what they had
	}
	now := a.has[id]
	if term == a.term && last.index > now.last.index {
		a.has[id] = reach{last: last, told: now.told}
	}
	if last.index > a.last {
		now := time.Now()
		a.alone = now.Sub(a.taken) > 2*announceAfter
		a.last, a.taken = last.index, now
	}
}

// soon has an announcement made, if this instance leads: at once of an entry that came
// alone, else unless something more happens meanwhile.
func (a *announcements) soon() {
	if _, leads := a.leader.leads(); !leads {
		return
	}
	a.timer.Reset(announceAfter)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.alone {
		a.tell()
	}
}

func (a *announcements) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tell()
}

// tell needs the lock.
func (a *announcements) tell() {
	term, leads := a.leader.leads()
	commit := a.leader.commitIndex()
	if a.ended || !leads || term != a.term || a.leader.lastIndex() > commit {
		return // what is on its way tells, or is told of
	}
	for id, now := range a.has {
		if now.last.index != commit || now.told >= commit {
			continue
		}
		a.has[id] = reach{last: now.last, told: commit}
		a.senders.ask(heartbeat{to: id, term: term, committed: now.last})
	}
}

// end returns when nothing is sent any more; running has ended.
func (a *announcements) end() {
	a.timer.Stop()
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.senders.sending.Wait()
}

// announce tells another instance that what it has taken is committed.
func (n *Node) announce(h heartbeat) error {
	return n.say(h, &raft.AppendEntriesRequest{
		PrevLogEntry:      h.committed.index,
		PrevLogTerm:       h.committed.term,
		LeaderCommitIndex: h.committed.index,
	})
}
