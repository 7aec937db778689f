package consensus

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// A new instance belongs to no cluster, and two clusters may add it at the same moment. It
// finds the cluster id in the log only when it applies the entry: by then its log could have
// entries of both. So the first connection that passes the preface decides, before raft
// reads a byte of it.

var errNotJudged = errors.New("this instance is starting: it does not know yet whether it belongs to a cluster")

// adopt durably makes this instance part of the cluster id, if it belongs to none. The
// preface calls it, from many goroutines.
func (n *Node) adopt(id string) error {
	n.adopting.Lock()
	defer n.adopting.Unlock()
	switch state := n.state.read(); {
	case !state.judged:
		return errNotJudged // it may yet found a cluster
	case state.ClusterID != "" && state.ClusterID != id:
		return fmt.Errorf("%w, %q: %q was faster", preface.ErrOtherCluster, id, state.ClusterID)
	case state.ClusterID == id:
		return nil
	case state.Quarantine != "":
		// The mark first: if the process ends in between, undoAdoption finds no cluster id.
		if err := writeMark(n.directory, quarantineMark{Reason: state.Quarantine, Adopted: true}); err != nil {
			return err
		}
	}
	if err := n.setCluster(id); err != nil {
		return err
	}
	n.config.Logger.Info("this instance belongs to a raft cluster from now on, and to no other", "cluster_id", id)
	return nil
}

// setCluster stores the id of this instance's cluster. Peers that connected before have to
// connect again, so that the preface checks their cluster id.
func (n *Node) setCluster(id string) error {
	if err := n.directory.SetClusterID(id); err != nil {
		return err
	}
	n.state.update(func(s *localState) { s.ClusterID = id })
	n.stream.Reset()
	return nil
}

// learnClusterID writes the cluster's id into the directory once it is known, so
// that this instance knows it at its next start before it has applied anything.
// Usually adopt has done that already. The caller holds refreshing, so the directory, which
// may wait for the disk, is asked only once.
func (n *Node) learnClusterID() {
	learnt := n.state.read().ClusterID
	if learnt == n.owner {
		return
	}
	if learnt != n.directory.ClusterID() {
		if err := n.setCluster(learnt); err != nil {
			n.fail(err)
			return
		}
	}
	n.owner = learnt
}

// undoAdoption undoes an adoption after which nothing was sent: without raft state no
// cluster relies on this instance, and any cluster may add it.
func (n *Node) undoAdoption(exists bool) error {
	mark, found, err := readMark(n.directory)
	if err != nil || !found || !mark.Adopted || exists {
		return err
	}
	n.config.Logger.Info("this instance was adopted by a raft cluster which has sent it nothing: it belongs to none again",
		"cluster_id", n.directory.ClusterID())
	if err := n.directory.ForgetCluster(); err != nil {
		return err
	}
	n.state.update(func(s *localState) { s.ClusterID = "" })
	return quarantine(n.directory, mark.Reason)
}
