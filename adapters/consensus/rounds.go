package consensus

import (
	"context"
	"sync"
	"sync/atomic"
)

// rounds lets those who need the answer to one question share it, where an
// answer is good for all who had asked before the question was put. Those who
// come while a round is under way share the next one, so that any number of them
// costs two rounds; a lone one starts at once. Safe for concurrent use.
type rounds struct {
	going sync.WaitGroup

	begun, shared atomic.Uint64 // rounds, and those who asked for them

	mu      sync.Mutex
	running bool
	next    *round // collects those who come during a round; nil for none
}

// round is one answer, for all who wait for it.
type round struct {
	done  chan struct{}
	index uint64
	err   error
}

// pass returns what put answers when it is called after pass was. put must end
// by itself: no asker's context is its own.
func (r *rounds) pass(ctx context.Context, put func() (uint64, error)) (uint64, error) {
	shared := r.join(put)
	select {
	case <-shared.done:
		return shared.index, shared.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (r *rounds) join(put func() (uint64, error)) *round {
	r.shared.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	if !r.running {
		r.running = true
		r.going.Go(func() { r.run(put) })
	}
	return r.next
}

// run does one round after the other while somebody waits.
func (r *rounds) run(put func() (uint64, error)) {
	for {
		r.mu.Lock()
		current := r.next
		r.next = nil
		r.running = current != nil
		r.mu.Unlock()
		if current == nil {
			return
		}
		r.begun.Add(1)
		current.index, current.err = put()
		close(current.done)
	}
}

// wait returns when no round runs any more.
func (r *rounds) wait() { r.going.Wait() }
