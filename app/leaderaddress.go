package app

import (
	"context"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// How long an answer, or a failure to get one, is kept while the leader stays the same.
// An answer expires so that clients are not sent to a leader that no longer answers. A
// failure is kept only for those who are waiting already.
const (
	answerTTL  = time.Second
	failureTTL = 200 * time.Millisecond
)

// leaderTimeout bounds a question to the leader. leaderPatience bounds LeaderAddress,
// which may also wait for others that share the question: its callers promise a refusal
// within a second.
const (
	leaderTimeout  = 700 * time.Millisecond
	leaderPatience = 800 * time.Millisecond
)

// LeaderLocator implements ports.LeaderLocator. It caches the leader's answer.
type LeaderLocator struct {
	inquiry Inquiry

	lock       chan struct{} // holds a token while somebody uses the rest
	leader     leadership
	answeredAt time.Time
	answer     string
	err        error
}

// NewLeaderLocator returns a LeaderLocator that asks the leader through inquiry.
func NewLeaderLocator(inquiry Inquiry) *LeaderLocator {
	return &LeaderLocator{inquiry: inquiry, lock: make(chan struct{}, 1)}
}

// leadership identifies the leader of one term, at one address.
type leadership struct {
	id, raftAddress string
	term            uint64
}

func (l *LeaderLocator) isFresh(of leadership) bool {
	if l.leader != of {
		return false
	}
	if l.err != nil {
		return time.Since(l.answeredAt) < failureTTL
	}
	return time.Since(l.answeredAt) < answerTTL
}

// LeaderAddress implements ports.LeaderLocator. Concurrent calls share one question to the
// leader.
func (l *LeaderLocator) LeaderAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	select {
	case l.lock <- struct{}{}:
		defer func() { <-l.lock }()
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", ports.ErrNoLeader, ctx.Err())
	}
	state, _ := l.inquiry.Local.State()
	if state.LeaderID == "" || state.LeaderID == l.inquiry.Self.RaftID {
		return "", ports.ErrNoLeader
	}
	now := leadership{id: state.LeaderID, raftAddress: state.LeaderRaftAddress, term: state.Term}
	if !l.isFresh(now) {
		answer, err := l.ask(ctx, now)
		if ctx.Err() != nil {
			// This caller ran out of time; that says nothing about the leader.
			return "", fmt.Errorf("%w: %w", ports.ErrNoLeader, ctx.Err())
		}
		l.leader, l.answeredAt, l.answer, l.err = now, time.Now(), answer, err
	}
	if l.err != nil {
		return "", fmt.Errorf("%w: instance %q leads, but can't be asked for its address: %v", ports.ErrNoLeader, now.id, l.err)
	}
	return l.answer, nil
}

func (l *LeaderLocator) ask(ctx context.Context, leader leadership) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	identity, err := l.inquiry.identifyMember(ctx, leader.id, leader.raftAddress)
	if err != nil {
		return "", err
	}
	// Two instances may advertise the same address by mistake. A client that is sent
	// there would come back here, for ever.
	if identity.ApplicationAddress == "" || identity.ApplicationAddress == l.inquiry.Self.ApplicationAddress {
		return "", fmt.Errorf("it advertises the application address %q, where it can't be reached", identity.ApplicationAddress)
	}
	return identity.ApplicationAddress, nil
}
