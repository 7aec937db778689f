package consensus

import (
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// newTransport gives raft's transport on s.
func newTransport(s *stream, log hclog.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  newChecked(s),
		MaxPool: pooledConns,
		Timeout: rpcTimeout,
		Logger:  log,
		// Entries keep the time that they were appended at; this is the format
		// that go-msgpack writes by default.
		MsgpackUseNewTimeFormat: true,
	})
}

// addressed is raft's transport, that says whom each RPC is for and not only
// where to: an address can change hands, and an instance that answered for
// another one would vote, and acknowledge entries, for two.
type addressed struct {
	transport
	latest *sync.Map // from id to the address at which raft looked for it last
}

func newAddressed(inner transport) addressed { return addressed{inner, &sync.Map{}} }

// destination goes through raft's transport, which keeps connections by it, to
// stream.Dial.
func destination(id raft.ServerID, address raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + address
}

// splitDestination gives an empty id for an address alone. Neither an id nor an
// address has an @ in it.
func splitDestination(to raft.ServerAddress) (id, address string) {
	id, address, both := strings.Cut(string(to), "@")
	if !both {
		return "", string(to)
	}
	return id, address
}

// AppendEntriesPipeline implements raft.Transport.
func (a addressed) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := a.transport.AppendEntriesPipeline(id, destination(id, to))
	if err != nil {
		return nil, err
	}
	return staying{inner, func() bool {
		latest, known := a.latest.Load(id)
		return known && latest != to
	}}, nil
}

var errMoved = errors.New("the instance is a member at another address now")

// staying is a pipeline to an address whose messages fit, and that ends when its peer
// is a member at another one. Raft goes on with the one that it has, and takes what
// comes back for contact with a voter: if nobody is at the new address, it leads on
// and can't prove it to any reader.
type staying struct {
	raft.AppendPipeline
	moved func() bool
}

// AppendEntries implements raft.AppendPipeline.
func (s staying) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if s.moved() {
		return nil, errMoved
	}
	if err := sendable(args); err != nil {
		return nil, err
	}
	fit(args)
	return s.AppendPipeline.AppendEntries(args, resp)
}

// AppendEntries implements raft.Transport. Heartbeats come through here.
func (a addressed) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	a.latest.Store(id, to)
	if err := sendable(args); err != nil {
		return err
	}
	fit(args)
	return a.transport.AppendEntries(id, destination(id, to), args, resp)
}

// RequestVote implements raft.Transport.
func (a addressed) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return a.transport.RequestVote(id, destination(id, to), args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (a addressed) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return a.transport.RequestPreVote(id, destination(id, to), args, resp)
}

// InstallSnapshot implements raft.Transport.
func (a addressed) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return a.transport.InstallSnapshot(id, destination(id, to), args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (a addressed) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return a.transport.TimeoutNow(id, destination(id, to), args, resp)
}
