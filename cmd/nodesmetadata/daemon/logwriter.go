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
	// mostPending is how many bytes of the log may be pending before further lines are
	// dropped: some thousand lines, more than an idle instance logs in an hour.
	mostPending = 1 << 20
	// patience is how long Write waits for a line to be written. After one timeout no
	// Write waits until nothing is pending. It is far less than the shortest heartbeat
	// timeout, and far more than a terminal, a file or a pipe with a reader needs.
	patience = 10 * time.Millisecond
	// lastPatience is how long the process waits for pending lines when it ends.
	lastPatience = 500 * time.Millisecond
)

// logWriter writes each line of the log to a sink, in order, and never blocks for long on
// a sink that takes nothing, such as a pipe without a reader. If raft blocked on its log, a
// leader would still send heartbeats, and be followed, but decide nothing.
//
// As long as the sink takes a line within patience, the line is written when Write returns:
// a crash right after that does not lose it. Otherwise lines are pending, up to mostPending
// bytes. Lines beyond that, and lines that the sink refuses, are lost. Once the sink takes
// lines again, a line in the place of the lost ones says how many there were.
//
// There is nothing to close: the goroutine that writes ends when nothing is pending.
type logWriter struct {
	sink  io.Writer
	notes slog.Handler // of sink
	lost  atomic.Uint64

	mu      sync.Mutex
	pending [][]byte
	size    int           // bytes of pending, and of what drain has taken but not written
	dropped uint64        // number of lines dropped after pending
	idle    chan struct{} // closed when drain ends; nil when it does not run
	late    bool          // a Write has waited for patience since drain began

	missing uint64 // lost lines that have not been reported; only for drain
}

func newLogWriter(c config.Config, logs io.Writer) (*logWriter, error) {
	notes, err := newHandler(c, logs)
	return &logWriter{sink: logs, notes: notes}, err
}

// Write implements io.Writer for whole lines. It is safe for concurrent use, blocks for
// patience at most, and never returns an error.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	if w.size >= mostPending || w.dropped > 0 { // a line after dropped ones must wait for their report
		w.dropped++
		w.mu.Unlock()
		w.lost.Add(1)
		return len(line), nil
	}
	w.pending = append(w.pending, bytes.Clone(line))
	w.size += len(line)
	if w.idle == nil {
		w.idle = make(chan struct{})
		go w.drain()
	}
	idle, late := w.idle, w.late
	w.mu.Unlock()
	if !late && !closedWithin(idle, patience) {
		w.mu.Lock()
		w.late = w.idle == idle
		w.mu.Unlock()
	}
	return len(line), nil
}

// flush waits until nothing is pending, for most at the longest.
func (w *logWriter) flush(most time.Duration) {
	w.mu.Lock()
	idle := w.idle
	w.mu.Unlock()
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
func (w *logWriter) drain() {
	for {
		lines, dropped := w.take()
		if lines == nil && dropped == 0 {
			return
		}
		for _, line := range lines {
			w.tell()
			// One at a time: others may write to the same pipe.
			if _, err := w.sink.Write(line); err != nil {
				w.lost.Add(1)
				w.missing++
			}
			w.mu.Lock()
			w.size -= len(line)
			w.mu.Unlock()
		}
		w.missing += dropped
		w.tell()
	}
}

// take returns the pending lines, and how many lines were dropped after them. If there are
// neither, drain must return.
func (w *logWriter) take() (lines [][]byte, dropped uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines, dropped = w.pending, w.dropped
	w.pending, w.dropped = nil, 0
	if lines == nil && dropped == 0 {
		close(w.idle)
		w.idle, w.late = nil, false
	}
	return lines, dropped
}

// tell reports the lost lines. If the sink refuses that too, they are reported later.
func (w *logWriter) tell() {
	ctx := context.Background()
	if w.missing == 0 || !w.notes.Enabled(ctx, slog.LevelWarn) {
		return
	}
	note := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log are lost here: it was not taken", 0)
	note.Add("lines", w.missing)
	if w.notes.Handle(ctx, note) == nil {
		w.missing = 0
	}
}
