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

// An instance without raft state may be new, or a voter that has lost its log, its
// vote, or both. It can't tell, and in the second case the others rely on what it
// acknowledged. So it is in quarantine, which a mark in its directory keeps up
// through restarts: it gives no vote and stands for no election, and takes entries
// only from a leader that has it as a nonvoter, so that they count for nothing.
//
// That ends when it has applied all that was committed when it asked a leader,
// which proved after that question that it led (see Peers.ReadIndex), and when the
// membership committed by then has it as a nonvoter. Whatever it may have
// acknowledged, or voted for, is superseded then by what a majority of the others
// has committed without it; and it becomes a voter only by a change that comes
// later. See ADR 13.

const (
	quarantineName   = "quarantine.json"
	quarantineFormat = 1
	// dormant is a heartbeat timeout that does not pass.
	dormant = 365 * 24 * time.Hour
	// askAgain is the pause between two questions to the leader.
	askAgain = 50 * time.Millisecond
)

// Why an instance is in quarantine.
const (
	withoutState = "it was started without any raft state"
	isFounding   = "it was to found a cluster, and ended before it had (--bootstrap_raft_cluster)"
)

var errStillQuarantined = errors.New("this instance is in quarantine")

// quarantineMark is what quarantine.json says. That it is there is what counts.
type quarantineMark struct {
	Format int    `json:"format"`
	Reason string `json:"reason"`
	// Adopted: see adopt. Builds from before that ignore it.
	Adopted bool `json:"adopted,omitempty"`
	// Founding names the cluster that this instance is about to found: see bootstrap. Builds
	// from before that ignore it.
	Founding string `json:"founding,omitempty"`
}

// founds says whether nothing was ever in cluster but what its founding has written.
func (m quarantineMark) founds(cluster string) bool { return m.Founding != "" && m.Founding == cluster }

// quarantined reads the mark; empty for none.
func quarantined(d *logstore.Directory) (reason string, err error) {
	mark, _, err := markOf(d)
	return mark.Reason, err
}

func markOf(d *logstore.Directory) (mark quarantineMark, found bool, err error) {
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
	return keepMark(d, quarantineMark{Format: quarantineFormat, Reason: reason})
}

// markFounding is for an instance that founds a cluster, until it has. It can't be in any other
// while it has the mark: who adopts it replaces that.
func markFounding(d *logstore.Directory, cluster string) error {
	return keepMark(d, quarantineMark{Format: quarantineFormat, Reason: isFounding, Founding: cluster})
}

func keepMark(d *logstore.Directory, mark quarantineMark) error {
	raw, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	return d.Keep(quarantineName, append(raw, '\n'))
}

// settleQuarantine finds out, before raft starts, whether this instance is in
// quarantine; exists says whether there is raft state. Until it has, nobody gets
// through the preface.
func (n *Node) settleQuarantine(exists bool) error {
	reason, err := quarantined(n.directory)
	if err == nil && reason == "" && !exists {
		reason = withoutState
		err = quarantine(n.directory, reason)
	}
	if err != nil {
		return err
	}
	n.state.update(func(s *localState) { s.Quarantine, s.judged = reason, true })
	return nil
}

// mayBeTrusted says whether votes and acknowledgements of this instance may count.
func (n *Node) mayBeTrusted() bool {
	state := n.state.read()
	return state.judged && state.Quarantine == ""
}

// isNonvoter says whether this instance leads and has id as a nonvoter, with no
// way back: what made it one is committed.
func (n *Node) isNonvoter(id string) bool {
	running, state := n.started.Load(), n.state.read()
	if running == nil || !state.Leading {
		return false
	}
	if known, _ := state.LastCommitted().Roster.Find(id); known.Suffrage == domain.Voter {
		return false
	}
	for _, server := range running.GetConfiguration().Configuration().Servers {
		if server.ID == raft.ServerID(id) {
			return server.Suffrage != raft.Voter
		}
	}
	return false
}

// leaveQuarantine waits until this instance has what it needs, and lifts the
// quarantine.
func (n *Node) leaveQuarantine() {
	for {
		state := n.state.read()
		var again <-chan time.Time
		if state.LeaderID != "" && n.isAdmitted(state) {
			if err := n.tryToLeave(); err == nil {
				return
			}
			again = time.After(askTimeout) // there may be no news in a cluster that rests
		}
		select {
		case <-state.later:
		case <-again:
		case <-n.running.Done():
			return
		}
		if !n.sleep(askAgain) {
			return
		}
	}
}

// isAdmitted says whether the committed membership that reached this instance has
// it as a nonvoter.
func (n *Node) isAdmitted(state *localState) bool {
	self, isMember := state.LastCommitted().Roster.Find(n.config.ID)
	return isMember && self.Suffrage == domain.Nonvoter
}

func (n *Node) tryToLeave() error {
	index, err := n.askLeader()
	if err != nil {
		return err
	}
	state, err := n.awaitApplied(n.running, index)
	if err != nil {
		return err
	}
	if !n.isAdmitted(state) {
		return errStillQuarantined // a change behind that one will do
	}
	if err := n.directory.Drop(quarantineName); err != nil {
		n.fail(fmt.Errorf("leave quarantine: %w", err))
		return err
	}
	n.refreshState() // what is posted may still be an early membership, of which it was a voter
	n.state.update(func(s *localState) { s.Quarantine = "" })
	// Those that were made for a nonvoter alone; the leader dials again.
	n.stream.reset()
	n.config.Logger.Info("this instance has got the state of the cluster: its quarantine is lifted", "index", state.Applied)
	return n.campaign(true)
}

// campaign lets raft stand for election when it is time, or keeps it from that.
func (n *Node) campaign(may bool) error {
	return n.retune(func(timing *raft.ReloadableConfig) {
		timing.HeartbeatTimeout, timing.ElectionTimeout = dormant, dormant
		if may {
			timing.HeartbeatTimeout, timing.ElectionTimeout = n.timeouts.HeartbeatTimeout, n.timeouts.ElectionTimeout
		}
	})
}

// voteless keeps an instance in quarantine from voting, also for itself: raft
// gives no vote that it can't write down.
type voteless struct {
	logstore.Store
	trusted func() bool
}

// Set implements raft.StableStore.
func (v voteless) Set(key, value []byte) error {
	if string(key) == string(logstore.VoteCandidateKey) && !v.trusted() {
		return errStillQuarantined
	}
	return v.Store.Set(key, value)
}

// SetUint64 implements raft.StableStore.
func (v voteless) SetUint64(key []byte, value uint64) error {
	if string(key) == string(logstore.VoteTermKey) && !v.trusted() {
		return errStillQuarantined
	}
	return v.Store.SetUint64(key, value)
}
