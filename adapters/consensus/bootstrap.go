package consensus

import (
	"cmp"
	"crypto/rand"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// bootstrap makes a cluster of this instance alone, where that is asked for and
// the directory holds none. It says whether the directory holds raft state now.
func (n *Node) bootstrap(settings *raft.Config, snapshots raft.SnapshotStore, address string) (exists bool, err error) {
	exists, err = raft.HasExistingState(n.store, n.store, snapshots)
	if err == nil {
		err = n.disown(exists)
	}
	if err != nil {
		return false, err
	}
	mark, _, err := markOf(n.directory)
	if err != nil {
		return false, err
	}
	log, waits := n.config.Logger, mark.Reason != ""
	cutShort := mark.founds(n.directory.ClusterID())
	if cutShort && exists {
		if waits, err = n.concludeFounding(); err != nil {
			return false, err
		}
	}
	if exists && n.config.Bootstrap && (!waits || cutShort) {
		if exists, err = n.resumeBootstrap(snapshots); err != nil {
			return false, err
		}
		cutShort = cutShort || !exists
	}
	switch {
	case exists && n.config.Bootstrap:
		log.Info("the directory holds a raft cluster already: bootstrapping changes nothing",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return true, nil
	case !n.config.Bootstrap:
		return exists, nil
	case n.directory.ClusterID() != "" && !cutShort && (waits || !n.losesAllAlone()):
		log.Warn("the directory belongs to a raft cluster, whose state it has lost: bootstrapping would found another one, so this instance waits for the others. If there are none, and another cluster is wanted, start it with an empty directory",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return false, nil
	}
	cluster := cmp.Or(n.directory.ClusterID(), rand.Text())
	// The mark first, in place of one of an instance that has waited to be added, to no avail:
	// nobody relies on it. Without the mark a cluster's name with no state says that it is lost.
	if err := markFounding(n.directory, cluster); err != nil {
		return false, err
	}
	if err := n.directory.SetClusterID(cluster); err != nil {
		return false, err
	}
	n.state.update(func(s *localState) { s.ClusterID = cluster })
	log.Info("bootstrapping a raft cluster", "cluster_id", cluster, "id", n.config.ID, "address", address)
	err = raft.BootstrapCluster(settings, n.store, n.store, snapshots, n.interceptor, raft.Configuration{
		Servers: []raft.Server{{ID: settings.LocalID, Address: raft.ServerAddress(address), Suffrage: raft.Voter}},
	})
	if err != nil {
		return false, err
	}
	return true, n.directory.Drop(quarantineName)
}

// losesAllAlone says whether nobody else can have what this instance has lost, as it does
// whenever it ends.
func (n *Node) losesAllAlone() bool { return n.config.Backend.Volatile && !n.mayHavePeers() }

// concludeFounding drops the mark of a founding that was cut short when all of it was written. It
// says whether the mark is still there.
func (n *Node) concludeFounding() (waits bool, err error) {
	last, err := n.store.LastIndex()
	if err != nil || last == 0 {
		return true, err
	}
	return false, n.directory.Drop(quarantineName)
}

// resumeBootstrap takes back what is there of a bootstrap that was cut short, so that another
// one begins anew; without that raft would wait for members for ever. Raft stores the first
// term, and then the first entry. Nobody can have heard of an instance that has no more, since
// it had no members, and gave no vote. It says whether there is raft state.
func (n *Node) resumeBootstrap(snapshots raft.SnapshotStore) (exists bool, err error) {
	last, err := n.store.LastIndex()
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
