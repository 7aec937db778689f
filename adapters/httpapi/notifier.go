package httpapi

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// pausePerStream is how long the notifier pauses after a round, for each stream that it
	// woke: about what a write to the socket of a stream takes. When changes come faster
	// than that, each stream takes several at once, and leaves the time of a processor or
	// more to those who make the changes.
	pausePerStream = 4 * time.Microsecond

	// notifyBatch is how many streams are woken before everything else that can run gets
	// the processor.
	notifyBatch = 32

	// maxPause limits how long a change waits because of the changes before it.
	maxPause = 100 * time.Millisecond
)

// notifier wakes the streams of changes. They wait for it and not for the state machine:
// that would have to wake each of them, for each change, before it answers the write. A
// change that comes after a pause wakes them at once. Safe for concurrent use.
type notifier struct {
	local ports.Local
	round []*eventStream // the streams being woken; used by run only

	mu      sync.Mutex
	streams map[*eventStream]struct{}
}

func newNotifier(local ports.Local) *notifier {
	return &notifier{local: local, streams: map[*eventStream]struct{}{}}
}

// add has stream woken whenever there may be something new, until remove.
func (n *notifier) add(stream *eventStream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[stream] = struct{}{}
}

func (n *notifier) remove(stream *eventStream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, stream)
}

// run wakes the streams after changes until ctx ends.
func (n *notifier) run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		_, later := n.local.State()
		pause.Reset(min(time.Duration(n.notifyAll())*pausePerStream, maxPause))
		// First the pause, then the change: a change during the pause waits for its end,
		// and a change after it does not wait.
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-later:
		case <-ctx.Done():
			return
		}
	}
}

// notifyAll wakes all streams, and returns how many.
//
// It does so in batches. If all streams became runnable at once, the scheduler would run
// them, and write to their sockets, before it looks at what has come from the network:
// with ten thousand streams a leader would not hear its followers for as long as its lease.
func (n *notifier) notifyAll() int {
	n.mu.Lock()
	n.round = slices.AppendSeq(n.round, maps.Keys(n.streams))
	n.mu.Unlock()
	for i, stream := range n.round {
		stream.wake()
		if (i+1)%notifyBatch == 0 {
			runtime.Gosched()
		}
	}
	woken := len(n.round)
	clear(n.round) // so that streams that end are not kept
	n.round = n.round[:0]
	return woken
}
