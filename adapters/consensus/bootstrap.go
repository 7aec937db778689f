package consensus

import (
	"cmp"
	"crypto/rand"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// bootstrap founds a cluster of this instance alone, if that is asked for and the directory
// belongs to none. It reports whether the directory holds raft state afterwards.
func (n *Node) bootstrap(settings *raft.Config, snapshots raft.SnapshotStore, address string) (exists bool, err error) {
	exists, err = raft.HasExistingState(n.store, n.store, snapshots)
	if err == nil {
		err = n.undoAdoption(exists)
	}
	if err != nil {
		return false, err
	}
	mark, _, err := readMark(n.directory)
	if err != nil {
		return false, err
	}
	log, quarantined := n.config.Logger, mark.Reason != ""
	interrupted := mark.isFoundingOf(n.directory.ClusterID())
	if interrupted && exists {
		if quarantined, err = n.concludeFounding(); err != nil {
			return false, err
		}
	}
	if exists && n.config.Bootstrap && (!quarantined || interrupted) {
		if exists, err = n.resumeBootstrap(snapshots); err != nil {
			return false, err
		}
		interrupted = interrupted || !exists
	}
	switch {
	case exists && n.config.Bootstrap:
		log.Info("the directory holds a raft cluster already: bootstrapping changes nothing",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return true, nil
	case !n.config.Bootstrap:
		return exists, nil
	case n.directory.ClusterID() != "" && !interrupted && (quarantined || !n.lostStateForGood()):
		log.Warn("the directory belongs to a raft cluster, whose state it has lost: bootstrapping would found another one, so this instance waits for the others. If there are none, and another cluster is wanted, start it with an empty directory",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return false, nil
	}
	cluster := cmp.Or(n.directory.ClusterID(), rand.Text())
	// The mark comes first: a cluster id without state and without this mark means that the
	// state is lost. It may replace the mark of an instance that waited in vain to be added,
	// on which nobody relies.
	if err := markFounding(n.directory, cluster); err != nil {
		return false, err
	}
	if err := n.directory.SetClusterID(cluster); err != nil {
		return false, err
	}
	n.state.update(func(s *localState) { s.ClusterID = cluster })
	log.Info("bootstrapping a raft cluster", "cluster_id", cluster, "id", n.config.ID, "address", address)
	if err := raft.BootstrapCluster(settings, n.store, n.store, snapshots, n.interceptor, alone(n.config.ID, address)); err != nil {
		return false, err
	}
	return true, n.directory.Drop(quarantineName)
}

// alone is the membership of a cluster of one instance.
func alone(id, address string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{
		{ID: raft.ServerID(id), Address: raft.ServerAddress(address), Suffrage: raft.Voter},
	}}
}

// lostStateForGood reports whether this instance loses its state whenever it ends, and no
// other instance can have it.
func (n *Node) lostStateForGood() bool { return n.config.Backend.Volatile && !n.mayHavePeers() }

// concludeFounding removes the mark of an interrupted founding if all of its state was
// written. It reports whether the mark is still there.
func (n *Node) concludeFounding() (marked bool, err error) {
	last, err := n.store.LastIndex()
	if err != nil || last == 0 {
		return true, err
	}
	return false, n.directory.Drop(quarantineName)
}

// resumeBootstrap undoes an interrupted bootstrap, so that it can be repeated; otherwise raft
// would wait for members forever. Raft stores the first term, and then the first entry. An
// instance that has only the term had no members and gave no vote, so no other instance
// relies on it. resumeBootstrap reports whether the directory holds raft state afterwards.
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
