package consensus

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// rounds lets concurrent callers share the answer to one question. An answer is
// good for every caller that arrived before the question was asked. Callers that
// arrive while a round runs share the next one, so any number of them costs at most
// two rounds; a lone caller starts a round at once. Safe for concurrent use.
type rounds struct {
	going sync.WaitGroup

	begun  atomic.Uint64 // rounds
	shared atomic.Uint64 // calls that shared them

	mu      sync.Mutex
	ended   bool
	running bool
	next    *round // shared by the callers that arrive during a round; nil if none has
}

// round is one answer, for all callers that wait for it.
type round struct {
	done  chan struct{}
	index uint64
	err   error
}

// do returns what ask returns in a call that begins after do was called, or
// ports.ErrClosed after end. ask must end by itself: its callers share it, so none
// of their contexts may end it.
func (r *rounds) do(ctx context.Context, ask func() (uint64, error)) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	shared := r.join(ask)
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

// join returns the round that begins next; nil after end.
func (r *rounds) join(ask func() (uint64, error)) *round {
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
		r.going.Go(func() { r.run(ask) })
	}
	return r.next
}

// run runs one round after the other while callers wait.
func (r *rounds) run(ask func() (uint64, error)) {
	for {
		runtime.Gosched() // on a busy machine, callers that are about to join do so first
		r.mu.Lock()
		current := r.next
		r.next = nil
		r.running = current != nil
		r.mu.Unlock()
		if current == nil {
			return
		}
		r.begun.Add(1)
		current.index, current.err = ask()
		close(current.done)
	}
}

// end refuses new rounds, and returns when none runs. A caller that passed all
// checks before the instance was closed may still arrive after end.
func (r *rounds) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.going.Wait()
}
