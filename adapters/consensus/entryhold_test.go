package consensus

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// entryHold holds back entries on their way to followers. Safe for concurrent use.
type entryHold struct {
	on      atomic.Bool // entries that are sent from now on are held back
	through chan struct{}
	release func() // lets all entries through for good; it may be called again
}

func newEntryHold() *entryHold {
	through := make(chan struct{})
	return &entryHold{through: through, release: sync.OnceFunc(func() { close(through) })}
}

// heartbeatsOnly is a transport that lets heartbeats through, but no entries that hold holds
// back.
type heartbeatsOnly struct {
	transport
	hold *entryHold
}

func (h heartbeatsOnly) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (h heartbeatsOnly) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(args.Entries) > 0 && h.hold.on.Load() {
		<-h.hold.through
	}
	return h.transport.AppendEntries(id, to, args, resp)
}
