package consensus

import (
	"time"

	"github.com/hashicorp/raft"
)

// slack is added to the heartbeat timeout that raft starts with, for electLoneVoter to
// take away.
const slack = time.Nanosecond

// electLoneVoter has a lone voter stand for election now instead of after a heartbeat
// timeout, since no other instance could be its leader. When the timeout gets shorter,
// raft checks at once whether it has heard from a leader.
func (n *Node) electLoneVoter() error {
	if _, needed := n.quorum(); needed > 0 || !n.mayBeTrusted() {
		return nil
	}
	return n.retune(func(timing *raft.ReloadableConfig) { timing.HeartbeatTimeout -= slack })
}

// retune changes some of raft's reloadable settings while raft runs.
func (n *Node) retune(change func(*raft.ReloadableConfig)) error {
	n.tuning.Lock()
	defer n.tuning.Unlock()
	timing := n.raft.ReloadableConfig()
	change(&timing)
	return n.raft.ReloadConfig(timing)
}

// settings returns the configuration that raft starts with.
func (n *Node) settings() *raft.Config {
	settings := raft.DefaultConfig()
	settings.LocalID = raft.ServerID(n.config.ID)
	settings.HeartbeatTimeout = n.config.Timing.HeartbeatTimeout
	settings.ElectionTimeout = n.config.Timing.ElectionTimeout
	// How long a leader that reaches no majority goes on leading. Followers wait at least as
	// long before they elect another one. With a shorter lease clients would learn of it
	// earlier, but a leader that has to wait for a processor would also give up sooner. No
	// read relies on it: see gate.
	settings.LeaderLeaseTimeout = n.config.Timing.HeartbeatTimeout
	settings.CommitTimeout = commitTimeout
	settings.SnapshotThreshold = n.config.Timing.SnapshotThreshold
	settings.SnapshotInterval = n.config.Timing.SnapshotInterval
	settings.TrailingLogs = n.config.Timing.TrailingLogs
	settings.MaxAppendEntries = maxBatch
	settings.BatchApplyCh = true
	settings.ShutdownOnRemove = false // an instance that was removed may be added again
	settings.NoLegacyTelemetry = true
	settings.NotifyCh = n.leadership
	settings.Logger = raftLogger(n.config.Logger, func() bool { return n.state.read().Closed })
	if n.hooks.settings != nil {
		n.hooks.settings(settings)
	}
	settings.HeartbeatTimeout += slack
	settings.ElectionTimeout = max(settings.ElectionTimeout, settings.HeartbeatTimeout)
	return settings
}
