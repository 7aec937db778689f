package consensus

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// rounds lets those who need the answer to one question share it, where an
// answer is good for all who had asked before the question was put. Those who
// come while a round is under way share the next one, so that any number of them
// costs two rounds; a lone one starts at once. Safe for concurrent use.
type rounds struct {
	going sync.WaitGroup

	begun, shared atomic.Uint64 // rounds, and those who asked for them

	mu      sync.Mutex
	ended   bool
	running bool
	next    *round // collects those who come during a round; nil for none
}

// round is one answer, for all who wait for it.
type round struct {
	done  chan struct{}
	index uint64
	err   error
}

// pass returns what put answers when it is called after pass was, or
// ports.ErrClosed after the end. put must end by itself: no asker's context is
// its own.
func (r *rounds) pass(ctx context.Context, put func() (uint64, error)) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	shared := r.join(put)
	if shared == nil {
		return 0, ports.ErrClosed
	}
	select {
	case <-shared.done:
		return shared.index, shared.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// join gives the round that begins next; nil after the end.
func (r *rounds) join(put func() (uint64, error)) *round {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	r.shared.Add(1)
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
		runtime.Gosched() // who is about to ask, on a busy machine, asks before it
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

// end lets nobody begin a round any more, and returns when none runs. Who had
// passed all checks before an instance was closed may come here only now.
func (r *rounds) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.going.Wait()
}
