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
// an AppendEntries without entries. One that is lost is made up for by that timer. Safe
// for concurrent use.
type announcements struct {
	leader  announcer
	senders *heartbeats
	timer   *time.Timer

	mu  sync.Mutex
	has map[raft.ServerID]reach
}

// announcer is what announcements ask of raft.
type announcer interface {
	leadsBy() (term uint64, leads bool)
	commitIndex() uint64
	lastIndex() uint64
}

// reach is how far an instance is, as its leader of a term knows.
type reach struct {
	term  uint64
	index uint64 // of the last entry that it has acknowledged
	told  uint64 // up to which it was told what is committed
}

func newAnnouncements(running context.Context, leader announcer, send func(heartbeat) error) *announcements {
	a := &announcements{leader: leader, senders: newHeartbeats(running, send), has: map[raft.ServerID]reach{}}
	a.timer = time.AfterFunc(time.Hour, a.announce)
	a.timer.Stop()
	return a
}

// acknowledged is told what id has taken from this instance.
func (a *announcements) acknowledged(id raft.ServerID, request *raft.AppendEntriesRequest) {
	n := len(request.Entries)
	if n == 0 {
		return
	}
	a.mu.Lock()
	now := a.has[id]
	if now.term != request.Term {
		now = reach{term: request.Term}
	}
	now.index = max(now.index, request.Entries[n-1].Index)
	a.has[id] = now
	a.mu.Unlock()
	a.soon()
}

// soon has an announcement made, if this instance leads, unless something more happens
// meanwhile.
func (a *announcements) soon() {
	if _, leads := a.leader.leadsBy(); leads {
		a.timer.Reset(announceAfter)
	}
}

func (a *announcements) announce() {
	term, leads := a.leader.leadsBy()
	commit := a.leader.commitIndex()
	if !leads || a.leader.lastIndex() > commit {
		return // what is on its way tells, or is told of
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, now := range a.has {
		if now.term != term || now.index < commit || now.told >= commit {
			continue
		}
		now.told = commit
		a.has[id] = now
		a.senders.ask(heartbeat{id, term})
	}
}

// end returns when nothing is sent any more; running has ended.
func (a *announcements) end() {
	a.timer.Stop()
	a.senders.sending.Wait()
}

// announce tells another instance what is committed now.
func (n *Node) announce(h heartbeat) error {
	commit := n.raft.CommitIndex()
	var last raft.Log
	if n.logs.GetLog(commit, &last) != nil {
		return nil // it is in a snapshot by now
	}
	return n.say(h, &raft.AppendEntriesRequest{
		PrevLogEntry:      commit,
		PrevLogTerm:       last.Term,
		LeaderCommitIndex: commit,
	})
}
