package consensus

import (
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/frames"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/stream"
)

// newTransport returns raft's transport on s.
func newTransport(s *stream.Stream, log hclog.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  checkedStream{s, frames.New(peerFrames)},
		MaxPool: pooledConns,
		Timeout: rpcTimeout,
		Logger:  log,
		// For AppendedAt of entries: the time format that go-msgpack writes by default.
		MsgpackUseNewTimeFormat: true,
	})
}

// addressedTransport sends each RPC to an id at an address. An address can change hands,
// and an instance that answered for another one would vote, and acknowledge entries,
// for two.
type addressedTransport struct {
	transport
	latest *sync.Map // by id, the address to which raft last sent
}

func newAddressed(inner transport) addressedTransport { return addressedTransport{inner, &sync.Map{}} }

// destination joins id and address into the key under which raft's transport pools
// connections. checkedStream.Dial splits it again.
func destination(id raft.ServerID, address raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + address
}

// splitDestination returns an empty id for an address alone. Neither ids nor addresses
// contain an @.
func splitDestination(to raft.ServerAddress) (id, address string) {
	id, address, both := strings.Cut(string(to), "@")
	if !both {
		return "", string(to)
	}
	return id, address
}

// AppendEntriesPipeline implements raft.Transport.
func (a addressedTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := a.transport.AppendEntriesPipeline(id, destination(id, to))
	if err != nil {
		return nil, err
	}
	return pinnedPipeline{inner, func() bool {
		latest, known := a.latest.Load(id)
		return known && latest != to
	}}, nil
}

var errMoved = errors.New("the instance is a member at another address now")

// pinnedPipeline is a pipeline to one address, for messages that the receiver takes (see
// checkSendable and limitEntries). It ends when its peer becomes a member at another
// address. Raft itself would keep the old pipeline, and take its answers for contact with a
// voter: with nobody at the new address, it would go on leading without being able to prove
// that to any reader.
type pinnedPipeline struct {
	raft.AppendPipeline
	moved func() bool
}

// AppendEntries implements raft.AppendPipeline.
func (s pinnedPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if s.moved() {
		return nil, errMoved
	}
	if err := checkSendable(args); err != nil {
		return nil, err
	}
	limitEntries(args)
	return s.AppendPipeline.AppendEntries(args, resp)
}

// AppendEntries implements raft.Transport. Heartbeats come through here.
func (a addressedTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	a.latest.Store(id, to)
	if err := checkSendable(args); err != nil {
		return err
	}
	limitEntries(args)
	return a.transport.AppendEntries(id, destination(id, to), args, resp)
}

// RequestVote implements raft.Transport.
func (a addressedTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return a.transport.RequestVote(id, destination(id, to), args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (a addressedTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return a.transport.RequestPreVote(id, destination(id, to), args, resp)
}

// InstallSnapshot implements raft.Transport.
func (a addressedTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return a.transport.InstallSnapshot(id, destination(id, to), args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (a addressedTransport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return a.transport.TimeoutNow(id, destination(id, to), args, resp)
}

// maxSend is how many bytes of entries go into one message with several entries: a follower
// that is far behind must receive each message in time.
const maxSend = 1 << 20

// limitEntries drops the last entries of a message that is too long. Raft goes on after the
// last entry that was sent.
func limitEntries(args *raft.AppendEntriesRequest) {
	args.Entries = firstEntries(args.Entries, maxSend)
}

// firstEntries returns the first entries, as many as have at most that many bytes together, but
// at least one.
func firstEntries(entries []*raft.Log, bytes int) []*raft.Log {
	sum := 0
	for i, entry := range entries {
		sum += len(entry.Data) + len(entry.Extensions)
		if sum > bytes && i > 0 {
			return entries[:i]
		}
	}
	return entries
}
