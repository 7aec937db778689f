package consensus

import (
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// foresee looks in the log of a nonvoter for an entry by which it is to be promoted to voter.
// After a start raft knows the membership at once, but that entry, though it comes earlier
// in the log, is applied only once a leader has told how much of the log is committed.
// Whoever moves this instance needs to know of the promotion before that.
func (n *Node) foresee() {
	if self, isMember := n.roster().Find(n.config.ID); !isMember || self.Suffrage == domain.Voter {
		return
	}
	for index := n.raft.LastIndex(); index > n.state.read().Applied; index-- {
		var entry raft.Log
		if n.store.GetLog(index, &entry) != nil {
			return // raft will report what is wrong with it
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		decoded, err := codec.DecodeEntry(entry.Data)
		if wish, is := decoded.(codec.Promotion); err == nil && is && wish.ID == n.config.ID {
			if !wish.Settled {
				n.state.update(func(s *localState) { s.foreseen = index })
			}
			return
		}
	}
}
