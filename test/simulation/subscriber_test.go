package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// subscriber follows the registry across the ends of its streams, on one instance after another.
type subscriber struct {
	story  *story
	id     int
	random *rand.Rand
	stream ports.NodeStream
	on     *process
}

func newSubscriber(h *story, n int) *subscriber {
	return &subscriber{story: h, id: n, random: rand.New(rand.NewPCG(h.seed, uint64(2000+n)))}
}

// follow consumes streams until ctx ends. The history keeps the position reached,
// so that another subscriber with the same id resumes there.
func (s *subscriber) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if s.stream == nil && !s.open(ctx) {
			s.story.pause(ctx, span(s.random, time.Millisecond, 50*time.Millisecond))
			continue
		}
		later, more := s.take()
		if more && later != nil {
			_ = waitFor(ctx, longest, later)
		}
	}
}

func (s *subscriber) open(ctx context.Context) bool {
	s.on = s.story.instances[s.random.IntN(len(s.story.instances))].alive()
	if s.on == nil {
		return false
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	after := s.story.seen.position(s.id)
	stream, err := s.on.nodes.Follow(short, &after, ports.Source(s.random.IntN(3)))
	if err != nil {
		return false
	}
	s.stream = stream
	return true
}

// take consumes one delivery. It returns a channel to wait for if there was none, and
// false at the end of the stream.
func (s *subscriber) take() (<-chan struct{}, bool) {
	delivery, later, err := s.stream.Next()
	switch {
	case s.on.dead.Load(), err != nil:
		s.stream = nil
		return nil, false
	case delivery.Empty():
		return later, true
	case delivery.Snapshot != nil:
		if err := s.story.seen.jump(s.id, delivery.Snapshot.Revision()); err != nil {
			s.story.fail("subscriber %d at %s: %v", s.id, s.on.instance.id, err)
		}
		return nil, true
	}
	for _, change := range delivery.Changes {
		if err := s.story.seen.delivered(s.id, change); err != nil {
			s.story.fail("subscriber %d at %s: %v", s.id, s.on.instance.id, err)
		}
	}
	return nil, true
}

// catchUp follows until it has received every change.
func (s *subscriber) catchUp() {
	ctx, cancel := context.WithCancel(s.story.running)
	defer cancel()
	s.story.eventually("a stream has delivered every change", func() error {
		if s.stream != nil || s.open(ctx) {
			for {
				if later, more := s.take(); later != nil || !more {
					break
				}
			}
		}
		if at, last := s.story.seen.position(s.id), s.story.seen.last(); at != last {
			return fmt.Errorf("the subscriber is at revision %d of %d", at, last)
		}
		return nil
	})
}

// position returns the revision that a subscriber has reached.
func (w *witnessed) position(subscriber int) domain.Revision {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.positions[subscriber]
}

// delivered records a change delivered to a subscriber, which must be the next one.
func (w *witnessed) delivered(subscriber int, change domain.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.positions[subscriber]; change.Revision != at+1 {
		return fmt.Errorf("a stream at revision %d delivered revision %d, want %d", at, change.Revision, at+1)
	}
	w.positions[subscriber] = change.Revision
	return w.learn(change)
}

// jump records a snapshot delivered to a subscriber. History is never truncated
// here, so only an instance that is behind, or was cleared, has a reason to send
// one.
func (w *witnessed) jump(subscriber int, to domain.Revision) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.positions[subscriber]; to > at {
		return fmt.Errorf("a snapshot took a stream from revision %d to %d, although the history reaches back", at, to)
	}
	w.positions[subscriber] = to
	return nil
}
