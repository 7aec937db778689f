package app

import (
	"context"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// An answer holds until the leader changes. It is asked for again after a
// while, so that a leader that stopped answering is no longer named; a failure
// is kept just long enough to spare those who wait the same failure.
const (
	leaderAnswerHolds  = time.Second
	leaderFailureHolds = 200 * time.Millisecond
)

// leaderTimeout bounds the question to the leader, and leaderPatience the wait for
// the answer of whoever shares it. Who gets none is refused, and that is promised
// within a second.
const (
	leaderTimeout  = 700 * time.Millisecond
	leaderPatience = 800 * time.Millisecond
)

// LeaderLocator implements ports.LeaderLocator. It remembers what the leader said.
type LeaderLocator struct {
	inquiry Inquiry

	asking chan struct{} // holds a token while somebody uses the rest
	of     leadership
	at     time.Time
	answer string
	err    error
}

// NewLeaderLocator gives one that asks by inquiry.
func NewLeaderLocator(inquiry Inquiry) *LeaderLocator {
	return &LeaderLocator{inquiry: inquiry, asking: make(chan struct{}, 1)}
}

// leadership tells one leader's time from another's.
type leadership struct {
	id, raftAddress string
	term            uint64
}

func (l *LeaderLocator) holds(of leadership) bool {
	if l.of != of {
		return false
	}
	if l.err != nil {
		return time.Since(l.at) < leaderFailureHolds
	}
	return time.Since(l.at) < leaderAnswerHolds
}

// LeaderAddress implements ports.LeaderLocator. Those who ask at the same time share
// one question to the leader.
func (l *LeaderLocator) LeaderAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", ports.ErrNoLeader, ctx.Err())
	}
	state, _ := l.inquiry.Local.State()
	if state.LeaderID == "" || state.LeaderID == l.inquiry.Self.RaftID {
		return "", ports.ErrNoLeader
	}
	now := leadership{id: state.LeaderID, raftAddress: state.LeaderRaftAddress, term: state.Term}
	if !l.holds(now) {
		answer, err := l.ask(ctx, now)
		if ctx.Err() != nil {
			// It was this asker who had no time left; the leader may be fine.
			return "", fmt.Errorf("%w: %w", ports.ErrNoLeader, ctx.Err())
		}
		l.of, l.at, l.answer, l.err = now, time.Now(), answer, err
	}
	if l.err != nil {
		return "", fmt.Errorf("%w: instance %q leads, but can't be asked for its address: %v", ports.ErrNoLeader, now.id, l.err)
	}
	return l.answer, nil
}

func (l *LeaderLocator) ask(ctx context.Context, leader leadership) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	identity, err := l.inquiry.hearFrom(ctx, leader.id, leader.raftAddress)
	if err != nil {
		return "", err
	}
	// Two instances can be told to advertise one address by mistake: a client
	// sent there would come back here, for ever.
	if identity.ApplicationAddress == "" || identity.ApplicationAddress == l.inquiry.Self.ApplicationAddress {
		return "", fmt.Errorf("it advertises the application address %q, where it can't be reached", identity.ApplicationAddress)
	}
	return identity.ApplicationAddress, nil
}
