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
	// waveShare is how much time there is after a wave for each stream: about what a
	// write to its socket takes. When changes come faster than that, each stream takes
	// several at once, and leaves the time of a processor or more to those who make them.
	waveShare = 4 * time.Microsecond

	// waveStep is how many streams are woken before everything else that can run has a
	// turn.
	waveStep = 32

	// longestPause bounds how long a change waits because of those before it.
	longestPause = 100 * time.Millisecond
)

// waves wakes the streams of changes. They wait for it and not for the state
// machine, which would have to wake each of them before it answers the write, and
// for every change by itself. A change after a pause is told at once. Safe for
// concurrent use.
type waves struct {
	local ports.Local
	order []*sink // of the wave that is made; run's alone

	mu      sync.Mutex
	streams map[*sink]struct{}
}

func newWaves(local ports.Local) *waves {
	return &waves{local: local, streams: map[*sink]struct{}{}}
}

// add has out woken whenever there may be something new, until remove.
func (w *waves) add(out *sink) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams[out] = struct{}{}
}

func (w *waves) remove(out *sink) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.streams, out)
}

// run makes waves until ctx ends.
func (w *waves) run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		_, later := w.local.State()
		pause.Reset(min(time.Duration(w.wake())*waveShare, longestPause))
		// First the pause, then the change: one that comes in the pause waits for
		// its end, and one that comes after it does not.
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

// wake makes one wave, and says of how many streams.
//
// The streams don't become runnable all at once: the scheduler would see to their sockets
// first, and only then to what came meanwhile. With ten thousand of them a leader would not
// hear its followers for as long as its lease.
func (w *waves) wake() int {
	w.mu.Lock()
	w.order = slices.AppendSeq(w.order, maps.Keys(w.streams))
	w.mu.Unlock()
	for i, out := range w.order {
		out.wake()
		if (i+1)%waveStep == 0 {
			runtime.Gosched()
		}
	}
	woken := len(w.order)
	clear(w.order) // those that end are not kept
	w.order = w.order[:0]
	return woken
}
