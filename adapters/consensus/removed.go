package consensus

import (
	"context"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// removalInterval is how often an instance that hears from no leader asks the
// others whether it still is one of them.
const removalInterval = time.Second

// watchRemoval finds out what nobody tells this instance: that it was removed
// while it was away. The others refuse its votes, and no leader knows it. It stops
// standing for election then, until a leader sends it something again.
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
			// Nobody misses it, and it waits for no majority.
		case state.expelled && state.InTouch:
			n.setExpelled(false)
		case state.Member && !state.expelled && !state.InTouch && n.isMissing(state):
			n.config.Logger.Warn("this instance was removed from the raft cluster while it did not take part: it stands for no election any more. Stop it, or add it again (PUT /raft/node on the leader)")
			n.setExpelled(true)
		}
	}
}

func (n *Node) setExpelled(expelled bool) {
	n.state.update(func(s *localState) { s.expelled = expelled })
	if err := n.campaign(!expelled); err != nil {
		n.config.Logger.Warn("raft keeps its timing", "error", err)
	}
}

// isMissing says whether an instance that leads, and has proven it, says that this
// one is no member. They are asked side by side: most of those that are gone do
// not answer.
func (n *Node) isMissing(state *localState) bool {
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
	missing := false
	for range others {
		missing = <-answers || missing
	}
	return missing
}

// excludes: builds from before this one do not say who the members are.
func (n *Node) excludes(state *localState, answer ports.ReadIndex) bool {
	return answer.ClusterID == state.ClusterID && len(answer.Members) > 0 && !slices.Contains(answer.Members, n.config.ID)
}
