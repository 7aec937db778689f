package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// An instance without raft state may be new, or a voter that has lost its log, its vote, or
// both. It can't tell which, and in the second case the others rely on what it acknowledged.
// So it is in quarantine, which a mark in its directory preserves through restarts: it does
// not vote, does not stand for election, and takes entries only from a leader that has it as
// a nonvoter, so that its acknowledgements do not count.
//
// The quarantine ends when two things hold: the instance has applied everything committed
// when it asked a leader, which proved after the question that it led (see Peers.ReadIndex);
// and the membership committed by then has it as a nonvoter. Whatever it may have
// acknowledged or voted for earlier is then superseded by what a majority of the others has
// committed without it, and it becomes a voter only by a later change. See ADR 13.

const (
	quarantineName   = "quarantine.json"
	quarantineFormat = 1
	// neverTimeout is a heartbeat timeout that never passes.
	neverTimeout = 365 * 24 * time.Hour
	// leaveRetryPause is the pause between two attempts to leave quarantine.
	leaveRetryPause = 50 * time.Millisecond
)

// Why an instance is in quarantine.
const (
	reasonNoState  = "it was started without any raft state"
	reasonFounding = "it was to found a cluster, and ended before it had (--bootstrap_raft_cluster)"
)

var errStillQuarantined = errors.New("this instance is in quarantine")

// quarantineMark is the content of quarantine.json. The existence of the file is what counts.
type quarantineMark struct {
	Format int    `json:"format"`
	Reason string `json:"reason"`
	// Adopted: it was adopted by the cluster to which it belongs, and never was a voter of
	// any: see adopt. Older builds ignore it.
	Adopted bool `json:"adopted,omitempty"`
	// Founding is the id of the cluster that this instance is about to found: see bootstrap.
	// Older builds ignore it.
	Founding string `json:"founding,omitempty"`
}

// isFoundingOf reports whether the founding of cluster was not completed, so that the
// cluster never had more than what the founding wrote.
func (m quarantineMark) isFoundingOf(cluster string) bool {
	return m.Founding != "" && m.Founding == cluster
}

// quarantineReason returns why the instance is in quarantine; empty if it is not.
func quarantineReason(d *logstore.Directory) (reason string, err error) {
	mark, _, err := readMark(d)
	return mark.Reason, err
}

func readMark(d *logstore.Directory) (mark quarantineMark, found bool, err error) {
	raw, found, err := d.Kept(quarantineName)
	if err != nil || !found {
		return quarantineMark{}, false, err
	}
	if err := json.Unmarshal(raw, &mark); err != nil || mark.Reason == "" {
		return quarantineMark{Reason: "its mark says no more"}, true, nil
	}
	return mark, true, nil
}

func quarantine(d *logstore.Directory, reason string) error {
	return writeMark(d, quarantineMark{Reason: reason})
}

// markFounding marks an instance that is founding a cluster. While it has this mark it is in
// no other cluster, as an adoption replaces the mark.
func markFounding(d *logstore.Directory, cluster string) error {
	return writeMark(d, quarantineMark{Reason: reasonFounding, Founding: cluster})
}

func writeMark(d *logstore.Directory, mark quarantineMark) error {
	mark.Format = quarantineFormat
	raw, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	return d.Keep(quarantineName, append(raw, '\n'))
}

// decideQuarantine decides, before raft starts, whether this instance is in quarantine;
// exists says whether there is raft state. Until then the preface rejects all connections.
func (n *Node) decideQuarantine(exists bool) error {
	reason, err := quarantineReason(n.directory)
	if err == nil && reason == "" && !exists {
		reason = reasonNoState
		err = quarantine(n.directory, reason)
	}
	if err != nil {
		return err
	}
	n.state.update(func(s *localState) { s.Quarantine, s.judged = reason, true })
	return nil
}

// mayBeTrusted reports whether votes and acknowledgements of this instance may count.
func (n *Node) mayBeTrusted() bool {
	state := n.state.read()
	return state.judged && state.Quarantine == ""
}

// isNonvoter reports whether this instance leads, and id is a nonvoter by the committed
// membership as well as by the latest one.
func (n *Node) isNonvoter(id string) bool {
	state := n.state.read()
	if !state.Leading {
		return false
	}
	if known, _ := state.LastCommitted().Roster.Find(id); known.Suffrage == domain.Voter {
		return false
	}
	for _, server := range n.members() {
		if server.ID == raft.ServerID(id) {
			return server.Suffrage != raft.Voter
		}
	}
	return false
}

// leaveQuarantine lifts the quarantine as soon as that is safe.
func (n *Node) leaveQuarantine() {
	for {
		state := n.state.read()
		var again <-chan time.Time
		if state.LeaderID != "" && n.isCommittedNonvoter(state) {
			if err := n.tryLeaveQuarantine(); err == nil {
				return
			}
			again = time.After(askTimeout) // an idle cluster may bring no new state
		}
		select {
		case <-state.later:
		case <-again:
		case <-n.running.Done():
			return
		}
		if !n.sleep(leaveRetryPause) {
			return
		}
	}
}

// isCommittedNonvoter reports whether this instance is a nonvoter by the committed
// membership in state.
func (n *Node) isCommittedNonvoter(state *localState) bool {
	self, isMember := state.LastCommitted().Roster.Find(n.config.ID)
	return isMember && self.Suffrage == domain.Nonvoter
}

func (n *Node) tryLeaveQuarantine() error {
	index, err := n.askLeader()
	if err != nil {
		return err
	}
	state, err := n.awaitApplied(n.running, index)
	if err != nil {
		return err
	}
	if !n.isCommittedNonvoter(state) {
		return errStillQuarantined // until a later change makes it a nonvoter
	}
	if err := n.directory.Drop(quarantineName); err != nil {
		n.fail(fmt.Errorf("leave quarantine: %w", err))
		return err
	}
	n.refreshState() // what is posted may still be an early membership, of which it was a voter
	n.state.update(func(s *localState) { s.Quarantine = "" })
	// The preface let these connections in for a nonvoter only; the leader dials again.
	n.stream.Reset()
	n.config.Logger.Info("this instance has got the state of the cluster: its quarantine is lifted", "index", state.Applied)
	return n.allowElections(true)
}

// allowElections lets raft stand for election, or keeps it from that.
func (n *Node) allowElections(may bool) error {
	return n.retune(func(timing *raft.ReloadableConfig) {
		timing.HeartbeatTimeout, timing.ElectionTimeout = neverTimeout, neverTimeout
		if may {
			timing.HeartbeatTimeout, timing.ElectionTimeout = n.timeouts.HeartbeatTimeout, n.timeouts.ElectionTimeout
		}
	})
}

// voteGuard keeps an instance in quarantine from voting, also for itself: raft gives no vote
// that it can't store.
type voteGuard struct {
	logstore.Store
	trusted func() bool
}

// Set implements raft.StableStore.
func (v voteGuard) Set(key, value []byte) error {
	if string(key) == string(logstore.VoteCandidateKey) && !v.trusted() {
		return errStillQuarantined
	}
	return v.Store.Set(key, value)
}

// SetUint64 implements raft.StableStore.
func (v voteGuard) SetUint64(key []byte, value uint64) error {
	if string(key) == string(logstore.VoteTermKey) && !v.trusted() {
		return errStillQuarantined
	}
	return v.Store.SetUint64(key, value)
}
