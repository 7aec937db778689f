package consensus

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

const (
	// shortestHang is the least time after which an operation of the store counts
	// as hanging: an fsync on a busy machine takes hundreds of milliseconds.
	shortestHang = time.Second
	// hangElections is that time in election timeouts, where these are long.
	hangElections = 5
	// diskPause is the time between two tries to write to a disk that refused.
	diskPause = 200 * time.Millisecond
	// presentPause is the time between two looks whether the directory is there.
	presentPause = time.Second
)

// errHangs is why nobody waits for an entry any longer.
var errHangs = errors.New("the disk of this instance does not answer")

// hangAfter is how long an operation of the store may take.
func (t Timing) hangAfter() time.Duration { return max(shortestHang, hangElections*t.ElectionTimeout) }

// trouble is what is wrong with the disk.
type trouble struct {
	operation string
	since     time.Time
	err       error // nil: the operation hangs
}

// Error implements error.
func (t *trouble) Error() string {
	since := t.since.UTC().Format(time.RFC3339)
	if t.err == nil {
		return fmt.Sprintf("the disk of this instance does not answer: it was asked to %s at %s", t.operation, since)
	}
	return fmt.Sprintf("the disk of this instance refuses since %s: %s: %v", since, t.operation, t.err)
}

func (t *trouble) Unwrap() error { return t.err }

type operation struct {
	what  string
	began time.Time
	over  bool
}

// during does one operation and notices if it hangs.
func (d *disk) during(what string, do func() error) error {
	op := &operation{what: what, began: time.Now()}
	timer := time.AfterFunc(d.config.hangAfter, func() { d.hangs(op) })
	err := do()
	if timer.Stop() {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	op.over = true
	if _, hung := d.hanging[op]; hung {
		delete(d.hanging, op)
		if len(d.hanging) == 0 {
			if d.insists == 0 {
				d.hung = make(chan struct{})
			}
			d.config.logger.Info("the disk answers again", "operation", what, "after", time.Since(op.began).Round(time.Millisecond))
		}
		d.post()
	}
	return err
}

func (d *disk) hangs(op *operation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if op.over {
		return
	}
	d.hanging[op] = struct{}{}
	if len(d.hanging) == 1 {
		if d.insists == 0 {
			close(d.hung)
		}
		d.count.Add(1)
		d.config.logger.Error("the disk does not answer: until it does, this instance neither leads nor votes",
			"operation", op.what, "since", op.began)
	}
	d.post()
}

// fails begins trouble, unless it goes on already.
func (d *disk) fails(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil || d.isClosing() {
		return
	}
	d.failed = &trouble{operation: what, since: time.Now(), err: err}
	d.fine = make(chan struct{})
	d.count.Add(1)
	d.config.logger.Error("the disk refuses: until a write succeeds, this instance neither leads nor stands for election",
		"operation", what, "error", err)
	if !d.probes {
		d.probes = true
		d.probing.Go(d.probe)
	}
	d.post()
}

// works ends trouble: a write has succeeded, to files that are there.
func (d *disk) works() {
	if d.config.present() != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil || d.insists > 0 {
		return
	}
	d.config.logger.Info("the disk can be written again", "after", time.Since(d.failed.since).Round(time.Millisecond))
	d.failed = nil
	close(d.fine)
	d.post()
}

// post needs the lock.
func (d *disk) post() {
	now := d.failed
	for op := range d.hanging {
		if now == nil || now.err != nil || op.began.Before(now.since) {
			now = &trouble{operation: op.what, since: op.began}
		}
	}
	d.trouble.Store(now)
	d.config.changed()
}

// stuck gives a channel that is closed while an operation hangs, or is tried for as
// long as it takes: nobody can say what will become of an entry.
func (d *disk) stuck() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hung
}

// refusal is the trouble that there is; nil for none.
func (d *disk) refusal() error {
	if now := d.trouble.Load(); now != nil {
		return now
	}
	return nil
}

// probe tries, until there is no trouble, to write what is there already.
func (d *disk) probe() {
	for d.pause() {
		if d.during("write", d.tryOut) == nil {
			d.works()
		}
		d.mu.Lock()
		d.probes = d.failed != nil
		over := !d.probes
		d.mu.Unlock()
		if over {
			return
		}
	}
}

func (d *disk) tryOut() error {
	if err := d.room(); err != nil {
		return err
	}
	d.stable <- struct{}{}
	defer func() { <-d.stable }()
	term, err := d.Store.GetUint64(logstore.TermKey)
	if err != nil {
		return err // also where there is none: it is the first that raft stores
	}
	return d.Store.SetUint64(logstore.TermKey, term)
}

// room is why there is no place for entries; nil where there is.
func (d *disk) room() error {
	if err := d.config.present(); err != nil {
		return err
	}
	if roomy, ok := d.Store.(logstore.Roomy); ok {
		return roomy.Room()
	}
	return nil
}

// watch looks whether the directory is there, also while nothing is written, until this
// instance is being closed.
func (d *disk) watch() {
	for {
		select {
		case <-time.After(presentPause):
		case <-d.closing:
			return
		}
		if err := d.config.present(); err != nil {
			d.fails("find its directory", err)
		}
	}
}

// pause is false when this instance is being closed.
func (d *disk) pause() bool {
	select {
	case <-time.After(diskPause):
		return !d.isClosing()
	case <-d.closing:
		return false
	}
}

func (d *disk) isClosing() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

// again waits before another try. When this instance is being closed it does not
// return: the goroutine, which is one of raft's, ends. It could be told of no
// error without a panic, and must not be told of a success.
func (d *disk) again() {
	if !d.pause() {
		runtime.Goexit()
	}
}

// letGo ends every wait: nothing more is promised.
func (d *disk) letGo() {
	d.once.Do(func() {
		d.mu.Lock() // so that no probe begins later
		defer d.mu.Unlock()
		close(d.closing)
	})
}
