package daemon

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

const (
	// mostPending is how many bytes of the log may wait to be written before no more lines
	// are taken: some thousand lines, more than an instance says in an hour in which
	// nothing happens.
	mostPending = 1 << 20
	// patience is how long a line is waited for, and then none until nothing is pending
	// any more. It is far under the shortest heartbeat timeout, and far over what a
	// terminal, a file or a pipe that is read takes.
	patience = 10 * time.Millisecond
	// lastPatience is how long what is pending at the end is waited for.
	lastPatience = 500 * time.Millisecond
)

// outlet is where the log goes: it writes each line to a sink, in order, and keeps nobody
// waiting for a sink that takes nothing, such as a pipe that nobody reads. Were raft to
// wait, a leader would decide nothing, and be followed nevertheless.
//
// A line is out when Write returns, as long as the sink takes lines within patience: it is
// not lost to whatever ends the process next, and stands before what others find out by
// themselves. Otherwise lines are pending, until they are mostPending bytes. What is said beyond
// that, or refused by the sink, is lost, and a line in the place of those says how many,
// as soon as the sink takes lines again.
//
// There is nothing to close: the goroutine that writes ends when nothing is pending.
type outlet struct {
	sink  io.Writer
	notes slog.Handler // of sink
	lost  atomic.Uint64

	mu      sync.Mutex
	pending [][]byte
	size    int           // in bytes, of pending and of what drain has taken and not written
	dropped uint64        // after pending
	idle    chan struct{} // closed when drain ends; nil when it does not run
	late    bool          // drain has kept somebody waiting for patience

	missing uint64 // lost lines that no line tells of; for drain alone
}

func newOutlet(c config.Config, logs io.Writer) (*outlet, error) {
	notes, err := newHandler(c, logs)
	return &outlet{sink: logs, notes: notes}, err
}

// Write implements io.Writer for whole lines. It may be called by any goroutine, waits for
// patience at most, and returns no error.
func (o *outlet) Write(line []byte) (int, error) {
	o.mu.Lock()
	if o.size >= mostPending || o.dropped > 0 { // the next line stands behind those that are lost
		o.dropped++
		o.mu.Unlock()
		o.lost.Add(1)
		return len(line), nil
	}
	o.pending = append(o.pending, bytes.Clone(line))
	o.size += len(line)
	if o.idle == nil {
		o.idle = make(chan struct{})
		go o.drain()
	}
	idle, late := o.idle, o.late
	o.mu.Unlock()
	if !late && !closedWithin(idle, patience) {
		o.mu.Lock()
		o.late = o.idle == idle
		o.mu.Unlock()
	}
	return len(line), nil
}

// flush waits until nothing is pending, but no longer than most.
func (o *outlet) flush(most time.Duration) {
	o.mu.Lock()
	idle := o.idle
	o.mu.Unlock()
	if idle != nil {
		closedWithin(idle, most)
	}
}

func closedWithin(done <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// drain writes until nothing is pending. Only one runs at a time.
func (o *outlet) drain() {
	for {
		lines, dropped := o.take()
		if lines == nil && dropped == 0 {
			return
		}
		for _, line := range lines {
			o.tell()
			// One at a time: others may write to the same pipe.
			if _, err := o.sink.Write(line); err != nil {
				o.lost.Add(1)
				o.missing++
			}
			o.mu.Lock()
			o.size -= len(line)
			o.mu.Unlock()
		}
		o.missing += dropped
		o.tell()
	}
}

// take gives what is pending, and how many lines after that were dropped. Without either,
// the drain that asks is over.
func (o *outlet) take() (lines [][]byte, dropped uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines, dropped = o.pending, o.dropped
	o.pending, o.dropped = nil, 0
	if lines == nil && dropped == 0 {
		close(o.idle)
		o.idle, o.late = nil, false
	}
	return lines, dropped
}

// tell says what is missing. When the sink refuses that too, it is said later.
func (o *outlet) tell() {
	ctx := context.Background()
	if o.missing == 0 || !o.notes.Enabled(ctx, slog.LevelWarn) {
		return
	}
	note := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log are lost here: it was not taken", 0)
	note.Add("lines", o.missing)
	if o.notes.Handle(ctx, note) == nil {
		o.missing = 0
	}
}
