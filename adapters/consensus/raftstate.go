package consensus

import (
	"slices"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// isLeader says whether raft leads, in any term.
func (n *Node) isLeader() bool {
	_, leads := n.leads()
	return leads
}

// needsOthers says whether a leader needs acknowledgements of others to commit an entry.
func (n *Node) needsOthers() bool {
	_, needed := n.quorum()
	return needed > 0
}

// members returns the latest membership in the log; nil before raft has started.
func (n *Node) members() []raft.Server {
	running := n.started.Load()
	if running == nil {
		return nil
	}
	return running.GetConfiguration().Configuration().Servers
}

// replicatesTo says whether this instance leads term and id is a member.
func (n *Node) replicatesTo(id raft.ServerID, term uint64) bool {
	now, leads := n.leads()
	return leads && now == term && slices.ContainsFunc(n.members(), func(s raft.Server) bool { return s.ID == id })
}

// currentTerm returns raft's term; 0 before raft has started.
func (n *Node) currentTerm() uint64 {
	running := n.started.Load()
	if running == nil {
		return 0
	}
	return running.CurrentTerm()
}

// appliedIndex returns the last index that raft has given to the state machine; 0 before
// raft has started.
func (n *Node) appliedIndex() uint64 {
	running := n.started.Load()
	if running == nil {
		return 0
	}
	return running.AppliedIndex()
}

// lastEntry returns index and term of the last entry in the log, zeros if the log is
// empty. It is not known if it can't be read, or before raft has started.
func (n *Node) lastEntry() (index, term uint64, known bool) {
	running := n.started.Load()
	if running == nil {
		return 0, 0, false
	}
	index = running.LastIndex()
	if index == 0 {
		return 0, 0, true
	}
	if pending := n.disk.Pending(index); pending != nil {
		return index, pending.Term, true // without waiting for the disk
	}
	var last raft.Log
	err := n.logs.GetLog(index, &last)
	return index, last.Term, err == nil
}

// isSteady says whether a heartbeat of term changes neither raft's term nor its state:
// see interceptorConfig. Before raft has started it returns false.
func (n *Node) isSteady(term uint64) bool {
	running := n.started.Load()
	return running != nil && running.State() == raft.Follower && term <= running.CurrentTerm()
}

// raise stores value in latest unless that is higher.
func raise(latest *atomic.Uint64, value uint64) {
	for now := latest.Load(); now < value && !latest.CompareAndSwap(now, value); now = latest.Load() {
	}
}
