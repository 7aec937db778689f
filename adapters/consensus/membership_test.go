package consensus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func nonvoter(id string) domain.Instance {
	return domain.Instance{ID: id, RaftAddress: id + ".invalid:1", Suffrage: domain.Nonvoter}
}

// heartbeatsOnly is a transport that, once it holds back, lets followers hear
// that their leader lives, but gives them nothing of its log until through is
// closed.
type heartbeatsOnly struct {
	transport
	holdsBack *atomic.Bool
	through   <-chan struct{}
}

func (h heartbeatsOnly) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (h heartbeatsOnly) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(args.Entries) > 0 && h.holdsBack.Load() {
		<-h.through
	}
	return h.transport.AppendEntries(id, to, args, resp)
}

// A change that somebody gave up waiting for is still under way: until it is
// decided nobody may be told that it is done, and none may be built upon it.
func TestAChangeThatIsNotCommittedIsNotAnswered(t *testing.T) {
	through := make(chan struct{})
	var holdsBack atomic.Bool
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.seams.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
	})
	letThrough := sync.OnceFunc(func() { close(through) })
	t.Cleanup(letThrough) // before the cluster is stopped
	leader := cluster[0]
	holdsBack.Store(true)
	briefly := func(change func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return change(ctx)
	}
	add := func(ctx context.Context) error { return leader.Add(ctx, nonvoter("c")) }
	if err := briefly(add); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("who gave up was told %v", err)
	}
	if err := briefly(add); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("who asked for the same was told %v, while it was not committed", err)
	}
	remove := func(ctx context.Context) error { return leader.Remove(ctx, "c") }
	if err := briefly(remove); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("who asked for the opposite was told %v", err)
	}
	letThrough()
	if err := add(within(t)); err != nil {
		t.Errorf("once it is committed: %v", err)
	}
	if err := remove(within(t)); err != nil {
		t.Errorf("the opposite afterwards: %v", err)
	}
}
