package disk

import (
	"fmt"
	"runtime"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

const (
	// retryPause is the time between two attempts to write after a failure.
	retryPause = 200 * time.Millisecond
	// directoryCheckInterval is how often an idle instance checks that its directory exists.
	directoryCheckInterval = time.Second
)

// Trouble says what is wrong with the disk: an operation hangs, or has failed. A write that
// returns a *Trouble was not begun.
type Trouble struct {
	operation string
	since     time.Time
	err       error // nil: the operation hangs
}

// Error implements error.
func (t *Trouble) Error() string {
	since := t.since.UTC().Format(time.RFC3339)
	if t.err == nil {
		return fmt.Sprintf("the disk of this instance does not answer: it was asked to %s at %s", t.operation, since)
	}
	return fmt.Sprintf("the disk of this instance refuses since %s: %s: %v", since, t.operation, t.err)
}

// Unwrap returns the error of the operation that failed; nil if one hangs.
func (t *Trouble) Unwrap() error { return t.err }

type storeOperation struct {
	what  string
	began time.Time
	over  bool
}

// timed runs one operation and reports it if it hangs.
func (w *watch) timed(what string, do func() error) error {
	op := &storeOperation{what: what, began: time.Now()}
	timer := time.AfterFunc(w.config.HangAfter, func() { w.reportHang(op) })
	err := do()
	if timer.Stop() {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	op.over = true
	if _, reported := w.hanging[op]; reported {
		delete(w.hanging, op)
		if len(w.hanging) == 0 {
			if w.retriedChanges == 0 {
				w.stalled = make(chan struct{})
			}
			w.config.Logger.Info("the disk answers again", "operation", what, "after", time.Since(op.began).Round(time.Millisecond))
		}
		w.updateTrouble()
	}
	return err
}

func (w *watch) reportHang(op *storeOperation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if op.over {
		return
	}
	w.hanging[op] = struct{}{}
	if len(w.hanging) == 1 {
		if w.retriedChanges == 0 {
			close(w.stalled)
		}
		w.troubles.Add(1)
		w.config.Logger.Error("the disk does not answer: until it does, this instance neither leads nor votes",
			"operation", op.what, "since", op.began)
	}
	w.updateTrouble()
}

// reportFailure begins trouble, unless an earlier failure still lasts.
func (w *watch) reportFailure(what string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil || w.running.Err() != nil {
		return
	}
	w.failed = &Trouble{operation: what, since: time.Now(), err: err}
	w.recovered = make(chan struct{})
	w.troubles.Add(1)
	w.config.Logger.Error("the disk refuses: until a write succeeds, this instance neither leads nor stands for election",
		"operation", what, "error", err)
	if !w.probeRunning {
		w.probeRunning = true
		w.probeDone.Go(w.probe)
	}
	w.updateTrouble()
}

// reportSuccess ends the trouble of a failure after a successful write, if the directory
// still exists.
func (w *watch) reportSuccess() {
	if w.config.CheckPresent() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil || w.retriedChanges > 0 {
		return
	}
	w.config.Logger.Info("the disk can be written again", "after", time.Since(w.failed.since).Round(time.Millisecond))
	w.failed = nil
	close(w.recovered)
	w.updateTrouble()
}

// updateTrouble publishes the trouble that began first. The caller holds mu.
func (w *watch) updateTrouble() {
	now := w.failed
	for op := range w.hanging {
		if now == nil || now.err != nil || op.began.Before(now.since) {
			now = &Trouble{operation: op.what, since: op.began}
		}
	}
	w.current.Store(now)
	w.config.Changed()
}

// Stalled returns a channel that is closed once an operation hangs, or a change of the log is
// retried. From then on nobody knows when the outcome of an entry will be known. Once that is
// over, Stalled returns another channel.
func (w *watch) Stalled() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stalled
}

// Troubles returns how often trouble has begun since New.
func (w *watch) Troubles() uint64 { return w.troubles.Load() }

// Fault returns the current trouble, a *Trouble, or nil if there is none. It takes no lock.
func (w *watch) Fault() error {
	if now := w.current.Load(); now != nil {
		return now
	}
	return nil
}

// probe rewrites the current term until the disk takes it, which ends the trouble.
func (w *watch) probe() {
	for w.pauseBeforeRetry() {
		if w.timed("write", w.probeWrite) == nil {
			w.reportSuccess()
		}
		w.mu.Lock()
		w.probeRunning = w.failed != nil
		over := !w.probeRunning
		w.mu.Unlock()
		if over {
			return
		}
	}
}

func (w *watch) probeWrite() error {
	if err := w.checkWritable(); err != nil {
		return err
	}
	w.stable <- struct{}{}
	defer func() { <-w.stable }()
	term, err := w.backend.GetUint64(logstore.TermKey)
	if err != nil {
		return err // also where there is none: it is the first that raft stores
	}
	return w.backend.SetUint64(logstore.TermKey, term)
}

// checkWritable returns an error if the directory is gone, or there is no room for entries.
func (w *watch) checkWritable() error {
	if err := w.config.CheckPresent(); err != nil {
		return err
	}
	if roomy, ok := w.backend.(logstore.Roomy); ok {
		return roomy.Room()
	}
	return nil
}

// WatchDirectory checks regularly that the directory exists, even while nothing is written. It
// returns after StopRetrying or Close is called.
func (w *watch) WatchDirectory() {
	for w.sleep(directoryCheckInterval) {
		if err := w.config.CheckPresent(); err != nil {
			w.reportFailure("find its directory", err)
		}
	}
}

// pauseBeforeRetry returns false when this instance is being closed.
func (w *watch) pauseBeforeRetry() bool {
	return w.sleep(retryPause) && w.running.Err() == nil
}

// sleep waits for pause; it returns false if this instance is being closed first.
func (w *watch) sleep(pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-w.running.Done():
		return false
	}
}

// pauseOrExit pauses before another attempt. When this instance is being closed, it ends the
// goroutine, which is one of raft's, instead of returning: raft would panic on an error, and
// must not be told of a success.
func (w *watch) pauseOrExit() {
	if !w.pauseBeforeRetry() {
		runtime.Goexit()
	}
}

// StopRetrying ends all retries, because this instance is being closed. A goroutine of raft that
// waits for a retry does not return to raft: it ends with runtime.Goexit.
func (w *watch) StopRetrying() {
	w.mu.Lock() // so that no probe begins later
	defer w.mu.Unlock()
	w.stop()
}
