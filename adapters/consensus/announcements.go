package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// announceAfter is how long a leader waits for another write, which would carry the commit
// index to the followers, before it announces the commit index without one.
const announceAfter = time.Millisecond

// announcements tells followers the commit index when no entry follows that would carry
// it. Raft 1.7.3 leaves that to a timer; until it fires, a follower's streams lack what
// was acknowledged, and its fresh reads wait. An announcement is what raft would send: an
// AppendEntries without entries. If one is lost, raft's timer makes up for it. An entry
// that came alone is announced at once, since the next one will hardly come in time,
// either. Safe for concurrent use.
type announcements struct {
	leader  announcer
	senders *heartbeats
	timer   *time.Timer

	mu    sync.Mutex
	ended bool
	term  uint64 // in which the following was learnt
	has   map[raft.ServerID]reach
	last  uint64    // index of the latest entry that any instance has acknowledged
	taken time.Time // when last changed
	alone bool      // before that, last had not changed for a while
}

// announcer is what announcements asks of raft. No method blocks.
type announcer interface {
	leads() (term uint64, leads bool)
	commitIndex() uint64
	lastIndex() uint64
}

// reach is how far another instance is, as its leader knows.
type reach struct {
	last place  // the last entry that it has acknowledged
	told uint64 // the commit index that was announced to it
}

// place is an entry's position in the log.
type place struct{ index, term uint64 }

func newAnnouncements(running context.Context, leader announcer, send func(heartbeat) error) *announcements {
	a := &announcements{leader: leader, senders: newHeartbeats(running, send), has: map[raft.ServerID]reach{}}
	a.timer = time.AfterFunc(time.Hour, a.announce)
	a.timer.Stop()
	return a
}

// acknowledged is called with each request of this instance that id has accepted.
func (a *announcements) acknowledged(id raft.ServerID, request *raft.AppendEntriesRequest) {
	if n := len(request.Entries); n > 0 {
		a.note(id, request.Term, place{request.Entries[n-1].Index, request.Entries[n-1].Term})
		a.soon()
	} else if !isHeartbeat(request) {
		a.note(id, request.Term, place{request.PrevLogEntry, request.PrevLogTerm}) // id may have it from a snapshot
	}
}

// reached returns the last index up to which id is known to have the log of this leader; 0
// if this instance does not lead.
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
		clear(a.has) // another leader may have replaced the entries
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

// soon schedules an announcement, if this instance leads: at once for an entry that came
// alone, otherwise after announceAfter, which each call starts anew.
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

// tell announces the commit index to each instance that has all of the log. The caller
// holds the lock.
func (a *announcements) tell() {
	term, leads := a.leader.leads()
	commit := a.leader.commitIndex()
	if a.ended || !leads || term != a.term || a.leader.lastIndex() > commit {
		return // the entries in flight carry the commit index, or will be announced themselves
	}
	for id, now := range a.has {
		if now.last.index != commit || now.told >= commit {
			continue
		}
		a.has[id] = reach{last: now.last, told: commit}
		a.senders.ask(heartbeat{to: id, term: term, committed: now.last})
	}
}

// end returns when nothing is sent any more. Call it after running has ended.
func (a *announcements) end() {
	a.timer.Stop()
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.senders.sending.Wait()
}

// announce tells another instance that the entries it has acknowledged are committed.
func (n *Node) announce(h heartbeat) error {
	return n.sendEmpty(h, &raft.AppendEntriesRequest{
		PrevLogEntry:      h.committed.index,
		PrevLogTerm:       h.committed.term,
		LeaderCommitIndex: h.committed.index,
	})
}
