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

// Trouble is what is wrong with the disk. A write that is refused with it was not begun.
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

// Unwrap returns the error of the disk; nil if it hangs.
func (t *Trouble) Unwrap() error { return t.err }

type storeOperation struct {
	what  string
	began time.Time
	over  bool
}

// timed runs one operation and reports it if it hangs.
func (d *watch) timed(what string, do func() error) error {
	op := &storeOperation{what: what, began: time.Now()}
	timer := time.AfterFunc(d.config.HangAfter, func() { d.reportHang(op) })
	err := do()
	if timer.Stop() {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	op.over = true
	if _, reported := d.hanging[op]; reported {
		delete(d.hanging, op)
		if len(d.hanging) == 0 {
			if d.retriedChanges == 0 {
				d.stalled = make(chan struct{})
			}
			d.config.Logger.Info("the disk answers again", "operation", what, "after", time.Since(op.began).Round(time.Millisecond))
		}
		d.updateTrouble()
	}
	return err
}

func (d *watch) reportHang(op *storeOperation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if op.over {
		return
	}
	d.hanging[op] = struct{}{}
	if len(d.hanging) == 1 {
		if d.retriedChanges == 0 {
			close(d.stalled)
		}
		d.troubles.Add(1)
		d.config.Logger.Error("the disk does not answer: until it does, this instance neither leads nor votes",
			"operation", op.what, "since", op.began)
	}
	d.updateTrouble()
}

// reportFailure begins trouble, unless an earlier failure still lasts.
func (d *watch) reportFailure(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil || d.running.Err() != nil {
		return
	}
	d.failed = &Trouble{operation: what, since: time.Now(), err: err}
	d.recovered = make(chan struct{})
	d.troubles.Add(1)
	d.config.Logger.Error("the disk refuses: until a write succeeds, this instance neither leads nor stands for election",
		"operation", what, "error", err)
	if !d.probeRunning {
		d.probeRunning = true
		d.probeDone.Go(d.probe)
	}
	d.updateTrouble()
}

// reportSuccess ends the trouble of a failure after a successful write, if the directory
// still exists.
func (d *watch) reportSuccess() {
	if d.config.CheckPresent() != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil || d.retriedChanges > 0 {
		return
	}
	d.config.Logger.Info("the disk can be written again", "after", time.Since(d.failed.since).Round(time.Millisecond))
	d.failed = nil
	close(d.recovered)
	d.updateTrouble()
}

// updateTrouble publishes the trouble that began first. The caller holds mu.
func (d *watch) updateTrouble() {
	now := d.failed
	for op := range d.hanging {
		if now == nil || now.err != nil || op.began.Before(now.since) {
			now = &Trouble{operation: op.what, since: op.began}
		}
	}
	d.current.Store(now)
	d.config.Changed()
}

// Stalled returns a channel that is closed while an operation hangs, or a change of the log
// is being retried: the outcome of an entry is open then.
func (d *watch) Stalled() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stalled
}

// Troubles returns how often trouble has begun.
func (d *watch) Troubles() uint64 { return d.troubles.Load() }

// Fault returns the current trouble, a *Trouble, or nil. It takes no lock.
func (d *watch) Fault() error {
	if now := d.current.Load(); now != nil {
		return now
	}
	return nil
}

// probe rewrites the current term until the disk takes it, which ends the trouble.
func (d *watch) probe() {
	for d.pauseBeforeRetry() {
		if d.timed("write", d.probeWrite) == nil {
			d.reportSuccess()
		}
		d.mu.Lock()
		d.probeRunning = d.failed != nil
		over := !d.probeRunning
		d.mu.Unlock()
		if over {
			return
		}
	}
}

func (d *watch) probeWrite() error {
	if err := d.checkWritable(); err != nil {
		return err
	}
	d.stable <- struct{}{}
	defer func() { <-d.stable }()
	term, err := d.backend.GetUint64(logstore.TermKey)
	if err != nil {
		return err // also where there is none: it is the first that raft stores
	}
	return d.backend.SetUint64(logstore.TermKey, term)
}

// checkWritable returns an error if the directory is gone, or there is no room for entries.
func (d *watch) checkWritable() error {
	if err := d.config.CheckPresent(); err != nil {
		return err
	}
	if roomy, ok := d.backend.(logstore.Roomy); ok {
		return roomy.Room()
	}
	return nil
}

// WatchDirectory checks that the directory exists, also while nothing is written, until
// StopRetrying or Close is called.
func (d *watch) WatchDirectory() {
	for d.sleep(directoryCheckInterval) {
		if err := d.config.CheckPresent(); err != nil {
			d.reportFailure("find its directory", err)
		}
	}
}

// pauseBeforeRetry returns false when this instance is being closed.
func (d *watch) pauseBeforeRetry() bool {
	return d.sleep(retryPause) && d.running.Err() == nil
}

// sleep waits for pause; it returns false if this instance is being closed first.
func (d *watch) sleep(pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-d.running.Done():
		return false
	}
}

// pauseOrExit pauses before another attempt. When this instance is being closed, it ends the
// goroutine, which is one of raft's, instead of returning: raft would panic on an error, and
// must not be told of a success.
func (d *watch) pauseOrExit() {
	if !d.pauseBeforeRetry() {
		runtime.Goexit()
	}
}

// StopRetrying ends every retry and probe, as this instance is being closed. A goroutine of
// raft that waits for the disk ends where it is: see pauseOrExit.
func (d *watch) StopRetrying() {
	d.mu.Lock() // so that no probe begins later
	defer d.mu.Unlock()
	d.stop()
}
