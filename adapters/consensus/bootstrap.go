package consensus

import (
	"crypto/rand"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// bootstrap makes a cluster of this instance alone, where that is asked for and
// the directory holds none. It says whether the directory holds raft state now.
func (n *Node) bootstrap(settings *raft.Config, logs raft.LogStore, snapshots raft.SnapshotStore, address string) (exists bool, err error) {
	exists, err = raft.HasExistingState(logs, n.store, snapshots)
	if err == nil {
		err = n.disown(exists)
	}
	if err != nil {
		return false, err
	}
	waits, err := quarantined(n.directory)
	if err != nil {
		return false, err
	}
	log := n.config.Logger
	if exists && n.config.Bootstrap && waits == "" {
		if exists, err = n.resumeBootstrap(logs, snapshots); err != nil {
			return false, err
		}
	}
	switch {
	case exists && n.config.Bootstrap:
		log.Info("the directory holds a raft cluster already: bootstrapping changes nothing",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return true, nil
	case !n.config.Bootstrap:
		return exists, nil
	case n.directory.ClusterID() != "" && (waits != "" || n.mayHavePeers()):
		log.Warn("the directory belongs to a raft cluster, whose state it has lost: bootstrapping would found another one, so this instance waits for the others",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return false, nil
	}
	if waits != "" {
		// It has waited to be added, to no avail: nobody relies on it.
		if err := n.directory.Drop(quarantineName); err != nil {
			return false, err
		}
	}
	if n.directory.ClusterID() == "" {
		if err := n.directory.SetClusterID(rand.Text()); err != nil {
			return false, err
		}
	}
	n.board.post(func(s *notice) { s.ClusterID = n.directory.ClusterID() })
	log.Info("bootstrapping a raft cluster", "cluster_id", n.directory.ClusterID(), "id", n.config.ID, "address", address)
	return true, raft.BootstrapCluster(settings, logs, n.store, snapshots, n.witness, raft.Configuration{
		Servers: []raft.Server{{ID: settings.LocalID, Address: raft.ServerAddress(address), Suffrage: raft.Voter}},
	})
}

// resumeBootstrap takes back what is there of a bootstrap that was cut short, so that another
// one begins anew; without that raft would wait for members for ever. Raft stores the first
// term, and then the first entry. Nobody can have heard of an instance that has no more, since
// it had no members, and gave no vote. It says whether there is raft state.
func (n *Node) resumeBootstrap(logs raft.LogStore, snapshots raft.SnapshotStore) (exists bool, err error) {
	last, err := logs.LastIndex()
	if err != nil || last > 0 {
		return true, err
	}
	made, err := snapshots.List()
	if err != nil || len(made) > 0 {
		return true, err
	}
	term, err := n.store.GetUint64(logstore.TermKey)
	if err != nil || term > 1 {
		return true, err
	}
	if _, err := n.store.GetUint64(logstore.VoteTermKey); !errors.Is(err, logstore.ErrKeyNotFound) {
		return true, err
	}
	n.config.Logger.Warn("bootstrapping was cut short in this directory: it begins anew", "directory", n.directory.Path())
	return false, n.store.SetUint64(logstore.TermKey, 0)
}
