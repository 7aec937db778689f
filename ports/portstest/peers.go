package portstest

import (
	"context"
	"errors"
	"sync"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Peers implements ports.Peers with a table of raft addresses and answers. Safe for
// concurrent use.
type Peers struct {
	mu      sync.Mutex
	answers map[string]ports.Identity
	asked   map[string]int
	indexes map[string]ports.ReadIndex
}

// NewPeers returns Peers without any answer yet.
func NewPeers() *Peers {
	return &Peers{answers: map[string]ports.Identity{}, asked: map[string]int{}, indexes: map[string]ports.ReadIndex{}}
}

// Answer makes identity answer at raftAddress from now on.
func (p *Peers) Answer(raftAddress string, identity ports.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[raftAddress] = identity
}

// Silence stops all answers to Identify at raftAddress.
func (p *Peers) Silence(raftAddress string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.answers, raftAddress)
}

// Asked returns how often Identify asked raftAddress.
func (p *Peers) Asked(raftAddress string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[raftAddress]
}

// Identify implements ports.Peers.
func (p *Peers) Identify(ctx context.Context, raftAddress string) (ports.Identity, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[raftAddress]++
	if err := ctx.Err(); err != nil {
		return ports.Identity{}, err
	}
	identity, answers := p.answers[raftAddress]
	if !answers {
		return ports.Identity{}, errors.New("nobody answers at " + raftAddress)
	}
	return identity, nil
}

// Lead makes index the answer to ReadIndex at raftAddress from now on.
func (p *Peers) Lead(raftAddress string, index ports.ReadIndex) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.indexes[raftAddress] = index
}

// ReadIndex implements ports.Peers.
func (p *Peers) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return ports.ReadIndex{}, err
	}
	index, leads := p.indexes[raftAddress]
	if !leads {
		return ports.ReadIndex{}, ports.ErrNotLeader
	}
	return index, nil
}
