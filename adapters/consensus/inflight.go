package consensus

import (
	"context"
	"sync"
)

// inflight counts the writes that raft has not answered yet. Raft leaves some of
// them unanswered for ever when it is shut down, so no new ones are let in, and
// the old ones waited for, before that. The zero value lets in. Safe for
// concurrent use.
type inflight struct {
	mu    sync.Mutex
	count int
	ended bool
	idle  chan struct{} // closed once ended and nothing is left
}

// enter says whether one more is let in; each one that is must leave.
func (i *inflight) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended {
		return false
	}
	i.count++
	return true
}

func (i *inflight) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.count--
	if i.ended && i.count == 0 {
		close(i.idle)
	}
}

// end lets nobody in any more and waits for those inside, at most until ctx ends.
// It is called once.
func (i *inflight) end(ctx context.Context) {
	i.mu.Lock()
	i.ended = true
	i.idle = make(chan struct{})
	if i.count == 0 {
		close(i.idle)
	}
	i.mu.Unlock()
	select {
	case <-i.idle:
	case <-ctx.Done():
	}
}
