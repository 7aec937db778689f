package consensus

import (
	"context"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// removalInterval is how often an instance that hears from no leader asks the others whether
// it still is a member.
const removalInterval = time.Second

// watchRemoval finds out that this instance was removed while it was away, which no leader
// tells it. The others refuse their votes. The instance then stops standing for election,
// until a leader sends it something again.
func (n *Node) watchRemoval() {
	ticker := time.NewTicker(removalInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.running.Done():
			return
		}
		switch state := n.state.read(); {
		case state.Quarantine != "":
			// It does not stand for election anyway.
		case state.expelled && state.InTouch:
			n.setExpelled(false)
		case state.Member && !state.expelled && !state.InTouch && n.isRemoved(state):
			n.config.Logger.Warn("this instance was removed from the raft cluster while it did not take part: it stands for no election any more. Stop it, or add it again (PUT /raft/node on the leader)")
			n.setExpelled(true)
		}
	}
}

func (n *Node) setExpelled(expelled bool) {
	n.state.update(func(s *localState) { s.expelled = expelled })
	if err := n.allowElections(!expelled); err != nil {
		n.config.Logger.Warn("raft keeps its timing", "error", err)
	}
}

// isRemoved reports whether a leader, which has proven that it leads, says that this
// instance is no member. All others are asked at once, because those that are gone do not
// answer.
func (n *Node) isRemoved(state *localState) bool {
	others := slices.DeleteFunc(state.Roster.Instances(), func(i domain.Instance) bool { return i.ID == n.config.ID })
	ctx, cancel := context.WithTimeout(n.running, askTimeout)
	defer cancel()
	answers := make(chan bool, len(others))
	for _, other := range others {
		n.watching.Go(func() {
			answer, err := n.config.Peers.ReadIndex(ctx, other.RaftAddress)
			answers <- err == nil && n.excludes(state, answer)
		})
	}
	removed := false
	for range others {
		removed = <-answers || removed
	}
	return removed
}

// excludes reports whether a leader's answer lists the members without this instance. Older
// builds do not list them.
func (n *Node) excludes(state *localState, answer ports.ReadIndex) bool {
	return answer.ClusterID == state.ClusterID && len(answer.Members) > 0 && !slices.Contains(answer.Members, n.config.ID)
}
