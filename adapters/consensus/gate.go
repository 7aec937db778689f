package consensus

import (
	"context"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// gate proves, for reads, that this instance leads. It is the read index of
// Ongaro's thesis (section 6.4), which hashicorp/raft does not have: its
// VerifyLeader counts answers to heartbeats that were sent before the call, so a
// leader that was paused and deposed may find such an answer in its socket and
// believe that it still leads.
//
// Concurrent readers share rounds of heartbeats.
type gate struct {
	leadership leadership
	evidence   *evidence
	rounds     rounds
}

// leadership is what the gate asks of raft. No method blocks for long.
type leadership interface {
	// servingTerm returns the term in which this instance leads and has applied an
	// entry of its own; false if there is none.
	servingTerm() (uint64, bool)
	commitIndex() uint64
	// quorum returns the other voters, and how many of them must agree.
	quorum() (others []raft.ServerID, needed int)
	// sendHeartbeats has a heartbeat of term sent to each of others, after the call.
	sendHeartbeats(others []raft.ServerID, term uint64)
	// watch returns a channel that is closed when leadership may have changed.
	watch() <-chan struct{}
}

// readIndex returns the index that the state machine must have applied before it
// may answer a read that began before this call. It returns ports.ErrNotLeader, or
// the error of ctx.
func (g *gate) readIndex(ctx context.Context) (uint64, error) {
	return g.rounds.do(ctx, g.prove)
}

// prove runs one round: it returns the commit index from before the round once a
// majority has acknowledged a heartbeat sent after the round began. It fails as soon
// as leadership ends; a leader that reaches no majority loses it within its lease.
func (g *gate) prove() (uint64, error) {
	term, serving := g.leadership.servingTerm()
	if !serving {
		return 0, ports.ErrNotLeader
	}
	index := g.leadership.commitIndex()
	moment := g.evidence.begin()
	others, needed := g.leadership.quorum()
	if needed > 0 {
		g.leadership.sendHeartbeats(others, term)
	}
	for {
		changed := g.leadership.watch()
		// While the term is the same, index and others belong to it, too.
		if now, serving := g.leadership.servingTerm(); !serving || now != term {
			return 0, ports.ErrNotLeader
		}
		if g.accepted(others, term, moment) >= needed {
			return index, nil
		}
		select {
		case <-g.evidence.fresh:
		case <-changed:
		}
	}
}

// accepted returns how many of others acknowledged, in term, something sent at
// moment or later.
func (g *gate) accepted(others []raft.ServerID, term, moment uint64) int {
	accepted := 0
	for _, id := range others {
		if g.evidence.since(id, term, moment) {
			accepted++
		}
	}
	return accepted
}
