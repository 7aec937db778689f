package consensus

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// cappedCommit is a transport that, once bound is set, delivers no request with a commit
// index above it.
type cappedCommit struct {
	transport
	bound *atomic.Uint64
}

func (r cappedCommit) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if bound := r.bound.Load(); bound > 0 && args.LeaderCommitIndex > bound {
		return errCut
	}
	return r.transport.AppendEntries(id, to, args, resp)
}

// A write is acknowledged, and a follower that has it is elected before it learns that the
// write is committed. However sure it is of its leadership, it can't know that until an
// entry of its own term is committed.
func TestANewLeaderThatKnowsOfNoCommitServesNoStaleRead(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	hold := newEntryHold()
	var bound atomic.Uint64
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport {
			inner = &faulty{inner, fabric}
			switch config.id {
			case "instance-0":
				return cappedCommit{inner, &bound}
			case "instance-1":
				return heartbeatsOnly{inner, hold}
			}
			return inner
		}
	})
	t.Cleanup(hold.release) // before the cluster is stopped
	old, next, other := cluster[0], cluster[1], cluster[2]
	change := register(t, old, "before")
	for _, i := range cluster {
		i.waitForRevision(t, change.Revision)
	}
	until(t, "the next leader knows of all commits", func() bool { return next.commitIndex() == old.commitIndex() })

	bound.Store(old.commitIndex())
	hold.on.Store(true)
	fabric.cut(raft.ServerAddress(other.raftAddress()))
	register(t, old, "acknowledged")
	old.stop(t)
	fabric.mend(raft.ServerAddress(other.raftAddress()))
	until(t, "the next leader leads, and its follower knows that", func() bool {
		return next.raft.State() == raft.Leader && string(leaderAt(other)) == next.config.ID
	})
	for who, read := range map[string]func(context.Context) (domain.View, error){
		"Read of the new leader": next.Read, "ReadHere of the new leader": next.ReadHere, "ReadHere of its follower": other.ReadHere,
	} {
		if view, err := read(briefly(t)); err == nil {
			t.Errorf("%s = revision %d, want an error: revision 2 was acknowledged", who, view.Revision())
		}
	}
	if next.commitIndex() > bound.Load() {
		t.Error("the new leader knows of the commit, so the test shows nothing")
	}
	hold.release()
	for _, i := range []*instance{next, other} {
		mustHold(t, mustReadHere(t, i), "before", "acknowledged")
	}
}
