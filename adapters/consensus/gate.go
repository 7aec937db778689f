package consensus

import (
	"context"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// gate proves, for reads, that this instance leads. It is the read index of
// Ongaro's thesis (section 6.4), which hashicorp/raft does not have: its
// VerifyLeader counts answers to heartbeats that were sent before it was asked,
// so a leader that was paused and deposed may find such an answer in its socket
// and believe itself.
//
// Its readers share rounds of heartbeats.
type gate struct {
	leadership leadership
	evidence   *evidence
	rounds     rounds
}

// leadership is what the gate asks of raft. None of it blocks for long.
type leadership interface {
	// servingTerm is the term in which this instance leads and has applied an
	// entry; false when it does not, or has not yet.
	servingTerm() (uint64, bool)
	commitIndex() uint64
	// quorum gives the other voters, and how many of them must agree.
	quorum() (others []raft.ServerID, needed int)
	// provoke has each of others sent a heartbeat of term, after the call.
	provoke(others []raft.ServerID, term uint64)
	// watch gives a channel that is closed when leadership may have changed.
	watch() <-chan struct{}
}

// pass returns the index that the state machine must have applied for a read
// that began before the call to be answered from it. Errors: ports.ErrNotLeader,
// or ctx's.
func (g *gate) pass(ctx context.Context) (uint64, error) {
	return g.rounds.pass(ctx, g.prove)
}

// prove ends as soon as it succeeds, or leadership does; a leader that reaches
// no majority loses it within its lease.
func (g *gate) prove() (uint64, error) {
	term, serving := g.leadership.servingTerm()
	if !serving {
		return 0, ports.ErrNotLeader
	}
	index := g.leadership.commitIndex()
	moment := g.evidence.begin()
	others, needed := g.leadership.quorum()
	if needed > 0 {
		g.leadership.provoke(others, term)
	}
	for {
		changed := g.leadership.watch()
		// Still the same term: then index and voters are of it, too.
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

func (g *gate) accepted(others []raft.ServerID, term, moment uint64) int {
	accepted := 0
	for _, id := range others {
		if g.evidence.since(id, term, moment) {
			accepted++
		}
	}
	return accepted
}
