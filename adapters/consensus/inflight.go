package consensus

import (
	"context"
	"sync"
)

// inflight counts the writes that raft has not answered yet. When raft is shut down it
// leaves some of them unanswered for ever: so before that, end refuses new ones and waits
// for those in flight. The zero value is ready to use. Safe for concurrent use.
type inflight struct {
	mu    sync.Mutex
	count int
	ended bool
	idle  chan struct{} // closed once ended and count is zero
}

// enter counts one more write, which must leave later. It returns false after end.
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

// end refuses new writes and waits for those in flight, at most until ctx ends. It is
// called once.
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
