package consensus

import (
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// foresee looks, where this instance is a nonvoter, whether its log says that it
// is to be a voter. The wish lies before the membership in the log; but after a
// start the membership is known at once, and the wish when a leader has told how
// much of the log is committed. Somebody who moves this instance is to know earlier.
func (n *Node) foresee() {
	if self, isMember := n.roster().Find(n.config.ID); !isMember || self.Suffrage == domain.Voter {
		return
	}
	for index := n.raft.LastIndex(); index > n.state.read().Applied; index-- {
		var entry raft.Log
		if n.store.GetLog(index, &entry) != nil {
			return // raft will say what is wrong with it
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		decoded, err := decodeEntry(entry.Data)
		if wish, is := decoded.(promotion); err == nil && is && wish.ID == n.config.ID {
			if !wish.Settled {
				n.state.update(func(s *localState) { s.foreseen = index })
			}
			return
		}
	}
}
