package consensus

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// An instance that is new knows of no cluster, and two may add it at the same moment.
// From what it is sent it learns whose it is only when that is applied: by then its log
// would have entries of both. So the first connection that is through the preface
// decides, before raft reads a byte of it.

var errNotJudged = errors.New("this instance is starting: it does not know yet what it is")

// adopt makes this instance, where it belongs to no cluster, part of the one with
// that id, durably. It is called in the preface, from many goroutines.
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
		// The mark first: if the process ends in between, there is nothing to forget.
		if err := markAdopted(n.directory, state.Quarantine); err != nil {
			return err
		}
	}
	if err := n.belong(id); err != nil {
		return err
	}
	n.config.Logger.Info("this instance belongs to a raft cluster from now on, and to no other", "cluster_id", id)
	return nil
}

// belong writes down whose this instance is. Who was let in before anybody knew that
// has to come again, and is asked then.
func (n *Node) belong(id string) error {
	if err := n.directory.SetClusterID(id); err != nil {
		return err
	}
	n.state.update(func(s *localState) { s.ClusterID = id })
	n.stream.reset()
	return nil
}

// learnClusterID writes the cluster's id into the directory once it is known, so
// that this instance knows it at its next start before it has applied anything.
// Mostly it was adopted before. The caller holds looking, so the directory is asked
// once: it answers when the disk does.
func (n *Node) learnClusterID() {
	learnt := n.state.read().ClusterID
	if learnt == n.owner {
		return
	}
	if learnt != n.directory.ClusterID() {
		if err := n.belong(learnt); err != nil {
			n.fail(err)
			return
		}
	}
	n.owner = learnt
}

// disown takes back an adoption of which nothing has come: no raft state is there, so
// nobody relies on this instance, and any cluster may have it.
func (n *Node) disown(exists bool) error {
	mark, found, err := markOf(n.directory)
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

// markAdopted adds to the mark of an instance in quarantine that the cluster to which
// it belongs is one that adopted it: it has never been of use to any.
func markAdopted(d *logstore.Directory, reason string) error {
	return keepMark(d, quarantineMark{Format: quarantineFormat, Reason: reason, Adopted: true})
}
