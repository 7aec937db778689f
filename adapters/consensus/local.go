package consensus

import (
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// State implements ports.Local.
func (n *Node) State() (ports.LocalState, <-chan struct{}) {
	latest := n.state.read()
	state := latest.LocalState
	self, _ := state.Roster.Find(n.config.ID)
	if latest.address != "" && self.RaftAddress != latest.address {
		state.RosterRaftAddress = self.RaftAddress
	}
	state.Staged = self.Suffrage != domain.Voter &&
		(slices.Contains(state.Promotions, n.config.ID) || latest.foreseen > latest.Applied)
	state.Member = state.Member && !latest.expelled
	state.Removed = latest.expelled ||
		!state.Member && state.ClusterID != "" && state.Quarantine == "" && len(state.Roster.Instances()) > 0
	return state, latest.later
}

// LeaderContact implements ports.Local.
func (n *Node) LeaderContact() (time.Duration, bool) {
	state := n.state.read()
	if !state.opened {
		return 0, false
	}
	at := n.leaderContact(state)
	if at.IsZero() {
		return 0, false
	}
	return max(0, time.Since(at)), true
}

// SureLeader implements ports.Local. A voter that acknowledged a heartbeat votes for no
// other instance within half a heartbeat timeout, even if it restarts, unless this
// instance told the other one to take over: see votePolicy. A third instead of half
// leaves room for differences between clocks. An instance that was told to take over may
// stand for election long after raft has given up on the transfer, because it may
// have been paused before it read the message.
func (n *Node) SureLeader() bool {
	state := n.state.read()
	if !state.Leading {
		return false
	}
	sure := time.Since(n.leaderContact(state)) < n.config.Timing.HeartbeatTimeout/3
	// Raft knows of a later term before the shared state does.
	term, leads := n.leads()
	return sure && leads && term == state.Term && term != n.transferred.Load()
}

// leaderContact returns when this instance, whose state is given, last heard from the
// leader, or, if it leads, from a majority; zero for never.
func (n *Node) leaderContact(state *localState) time.Time {
	if !state.leads {
		if heard := n.interceptor.contact.Load(); heard != nil && heard.After(state.led) {
			return *heard
		}
		return state.led
	}
	others, needed := n.quorum()
	if needed == 0 {
		return time.Now()
	}
	at := n.evidence.majorityAt(others, needed, state.Term)
	if at.Before(state.elected) {
		return state.elected // a majority voted for it
	}
	return at
}
