package consensus

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// mutedTransport sends no message of a leader and no request for a vote while the disk is
// in trouble: the others then elect a leader whose disk answers. Raft's heartbeats do
// not depend on the disk, and would keep the others from electing anybody.
type mutedTransport struct {
	transport
	refusal func() error // nil while there is no trouble
}

var errDeposed = errors.New("the message is of a later term than the leader that sends it")

// mayNotSend returns why entries are not sent; nil if they may be. The replication
// goroutines that raft 1.7.3 leaves running for a deposed leader send its successor's
// entries as if they were its own. A follower that has not heard of the successor would
// store entries of a later term than its own.
func mayNotSend(args *raft.AppendEntriesRequest, refusal func() error) error {
	if n := len(args.Entries); n > 0 && args.Entries[n-1].Term > args.Term {
		return errDeposed
	}
	return refusal()
}

// AppendEntries implements raft.Transport.
func (m mutedTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := mayNotSend(args, m.refusal); err != nil {
		return err
	}
	return m.transport.AppendEntries(id, to, args, resp)
}

// InstallSnapshot implements raft.Transport. As with entries, a deposed leader may send
// its successor's snapshot: a follower must not take one of a later term than its own.
func (m mutedTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if args.LastLogTerm > args.Term {
		return errDeposed
	}
	if err := m.refusal(); err != nil {
		return err
	}
	return m.transport.InstallSnapshot(id, to, args, resp, data)
}

// RequestVote implements raft.Transport.
func (m mutedTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := m.refusal(); err != nil {
		return err
	}
	return m.transport.RequestVote(id, to, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (m mutedTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := m.refusal(); err != nil {
		return err
	}
	return m.transport.RequestPreVote(id, to, args, resp)
}

// AppendEntriesPipeline implements raft.Transport.
func (m mutedTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := m.refusal(); err != nil {
		return nil, err
	}
	pipeline, err := m.transport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return mutedPipeline{pipeline, m.refusal}, nil
}

// mutedPipeline is mutedTransport for pipelined entries.
type mutedPipeline struct {
	raft.AppendPipeline
	refusal func() error
}

// AppendEntries implements raft.AppendPipeline.
func (m mutedPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := mayNotSend(args, m.refusal); err != nil {
		return nil, err
	}
	return m.AppendPipeline.AppendEntries(args, resp)
}
