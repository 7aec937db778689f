package consensus

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// muted is raft's transport, which sends nothing that speaks for a leader, or asks
// for a vote, while there is trouble with the disk: the others then elect a leader
// whose disk answers. Raft's heartbeats know nothing of the disk, and would keep
// them from it.
type muted struct {
	transport
	refusal func() error // nil while there is no trouble
}

var errDeposed = errors.New("what is sent is of a later term than the leader that sends it")

// mayNotSend is why entries are not sent. What raft 1.7.3 has left of a leader sends
// those of its successor as if they were its own: whoever takes them, and did not hear
// of that one, has entries of a term that it has not come to.
func mayNotSend(args *raft.AppendEntriesRequest, refusal func() error) error {
	if n := len(args.Entries); n > 0 && args.Entries[n-1].Term > args.Term {
		return errDeposed
	}
	return refusal()
}

// AppendEntries implements raft.Transport.
func (m muted) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := mayNotSend(args, m.refusal); err != nil {
		return err
	}
	return m.transport.AppendEntries(id, to, args, resp)
}

// InstallSnapshot implements raft.Transport. The latest snapshot may be of a successor, as
// entries may: whoever takes it would be in a term of which it has heard nothing.
func (m muted) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if args.LastLogTerm > args.Term {
		return errDeposed
	}
	if err := m.refusal(); err != nil {
		return err
	}
	return m.transport.InstallSnapshot(id, to, args, resp, data)
}

// RequestVote implements raft.Transport.
func (m muted) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := m.refusal(); err != nil {
		return err
	}
	return m.transport.RequestVote(id, to, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (m muted) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := m.refusal(); err != nil {
		return err
	}
	return m.transport.RequestPreVote(id, to, args, resp)
}

// AppendEntriesPipeline implements raft.Transport.
func (m muted) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := m.refusal(); err != nil {
		return nil, err
	}
	pipeline, err := m.transport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return mutedPipeline{pipeline, m.refusal}, nil
}

// mutedPipeline is muted for entries that are sent without waiting for an answer.
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
