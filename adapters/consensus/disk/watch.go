package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// opStoreEntries names the append of log entries in messages.
const opStoreEntries = "store log entries"

// watch wraps a log store and watches its health (see trouble.go). Raft takes for granted
// that a disk answers: it stores a leader's entries in the one goroutine that could give up
// leadership, while others go on with the heartbeats; and it panics when it can't store a
// term. So
//
//   - there is trouble while an operation hangs, and after one has failed: see the package
//     comment for what an instance in trouble must not do;
//   - storing the term and the vote is retried until it succeeds;
//   - so is storing entries, unless it is certain that nothing was written and raft can
//     cope with the error. It can't after it has removed the end of the log, when it
//     leads and appends a membership, and when it was told that the entries are stored
//     (see Store).
//
// Safe for concurrent use, as a logstore.Store is.
type watch struct {
	backend
	config Config

	raftStarted atomic.Bool // from then on raft can't cope with every error
	truncated   atomic.Bool // the end of the log was removed, and nothing stored since
	current     atomic.Pointer[Trouble]
	troubles    atomic.Uint64 // how often trouble has begun

	stable chan struct{} // holds a token while the stable state is written

	mu             sync.Mutex
	hanging        map[*storeOperation]struct{}
	stalled        chan struct{} // closed while an operation hangs, or a change of the log is retried
	retriedChanges int           // failed changes of the log being retried; trouble lasts while there are any
	failed         *Trouble      // nil: nothing has failed since the last successful write
	recovered      chan struct{} // closed when failed becomes nil
	probeRunning   bool

	running   context.Context // ends when this instance is being closed
	stop      context.CancelFunc
	probeDone sync.WaitGroup
}

// backend is the log store that watch embeds. It is not exported, so that no other package can
// bypass the watch.
type backend interface{ logstore.Store }

func newWatch(store logstore.Store, config Config) *watch {
	w := &watch{
		backend:   store,
		config:    config,
		hanging:   map[*storeOperation]struct{}{},
		recovered: make(chan struct{}),
		stalled:   make(chan struct{}),
		stable:    make(chan struct{}, 1),
	}
	w.running, w.stop = context.WithCancel(context.Background())
	return w
}

// StoreLog implements raft.LogStore.
func (w *watch) StoreLog(log *raft.Log) error { return w.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (w *watch) StoreLogs(logs []*raft.Log) error {
	err := w.append(logs)
	if err != nil && w.mustRetry(logs, err) {
		w.storeUntilDone(logs)
		return nil
	}
	return err
}

// mustRetry reports whether raft would be wrong about the log if it were told that err kept
// logs from being stored. Only for lack of room, or of the directory, is it certain that
// nothing was written; and a leader goes by a membership also if it failed to store it.
func (w *watch) mustRetry(logs []*raft.Log, err error) bool {
	if w.truncated.Load() {
		return true
	}
	nothingWritten := errors.As(err, new(*logstore.NoRoomError)) || errors.Is(err, logstore.ErrDirectoryGone)
	changesMembers := slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
	return w.raftStarted.Load() && (!nothingWritten || changesMembers && w.config.Leads())
}

// storeUntilDone retries until logs are stored. The others elect another leader meanwhile;
// if that one replaces these entries, it does so afterwards.
func (w *watch) storeUntilDone(logs []*raft.Log) {
	w.setRetrying(true)
	w.pauseOrExit()
	for w.append(logs) != nil {
		w.pauseOrExit()
	}
	w.setRetrying(false)
	w.reportSuccess()
}

func (w *watch) setRetrying(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.retriedChanges
	if on {
		w.retriedChanges++
	} else {
		w.retriedChanges--
	}
	switch {
	case len(w.hanging) > 0: // stalled is closed already
	case before == 0:
		close(w.stalled)
	case w.retriedChanges == 0:
		w.stalled = make(chan struct{})
	}
}

// RaftStarted is called once raft has started. Until then every error is returned; from then on
// those that raft can't cope with are not.
func (w *watch) RaftStarted() { w.raftStarted.Store(true) }

// checkReady returns why entries can't be stored now, or nil.
func (w *watch) checkReady() error {
	if err := w.Fault(); err != nil {
		return err
	}
	err := w.timed(opStoreEntries, w.checkWritable)
	if err != nil {
		w.reportFailure(opStoreEntries, err)
	}
	return err
}

func (w *watch) append(logs []*raft.Log) error {
	began := time.Now()
	err := w.timed(opStoreEntries, func() error {
		if err := w.checkWritable(); err != nil {
			return err
		}
		return w.backend.StoreLogs(logs)
	})
	if err != nil {
		w.reportFailure(opStoreEntries, err)
		return err
	}
	if w.config.Stored != nil {
		w.config.Stored(time.Since(began))
	}
	w.truncated.Store(false)
	w.config.Appended(logs)
	if w.current.Load() != nil {
		w.reportSuccess()
	}
	return nil
}

// DeleteRange implements raft.LogStore. Raft goes on after an error, which would be wrong
// once a part of the log's end is gone. So removing the end is retried, and if the store is
// damaged the instance ends.
func (w *watch) DeleteRange(from, to uint64) error {
	last, err := w.backend.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	const what = "remove log entries"
	remove := func() error { return w.backend.DeleteRange(from, to) }
	err = w.timed(what, remove)
	if err != nil && to >= last && w.raftStarted.Load() {
		w.setRetrying(true)
		for err != nil {
			if errors.Is(err, logstore.ErrDamaged) {
				// Every other attempt would fail too. See GetLog.
				w.config.Fatal(fmt.Errorf("log entries %d to %d can't be removed: %w", from, to, err))
				runtime.Goexit()
			}
			w.reportFailure(what, err)
			w.pauseOrExit()
			err = w.timed(what, remove)
		}
		w.setRetrying(false)
		w.reportSuccess()
	}
	if err == nil && to >= last {
		w.truncated.Store(true)
	}
	return err
}

// GetLog implements raft.LogStore. A disk that returns something else than was written can't
// be relied on: the instance ends, and at its next start it sets aside what is damaged.
func (w *watch) GetLog(index uint64, log *raft.Log) error {
	err := w.timed("read a log entry", func() error { return w.getProven(index, log) })
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, logstore.ErrClosed) || !w.raftStarted.Load() {
		return err
	}
	// Otherwise raft would panic when it applies the entry, or send it to others.
	w.config.Fatal(fmt.Errorf("log entry %d can't be read: %w", index, err))
	runtime.Goexit()
	return err
}

// getProven reads an entry and verifies that it is as it was written: raft would send a
// damaged one to others.
func (w *watch) getProven(index uint64, entry *raft.Log) error {
	if err := w.backend.GetLog(index, entry); err != nil {
		return err
	}
	if entry.Index != index {
		return fmt.Errorf("it says that it is entry %d", entry.Index)
	}
	return w.config.Verify(entry)
}

// Set implements raft.StableStore.
func (w *watch) Set(key, value []byte) error {
	if bytes.Equal(key, logstore.VoteCandidateKey) && bytes.Equal(value, w.config.OwnAddress) {
		w.awaitRecovery()
	}
	return w.persist(key, func() error { return w.backend.Set(key, value) })
}

// awaitRecovery keeps an instance from voting for itself while it could not write as a
// leader: a lone voter would be elected again and again.
func (w *watch) awaitRecovery() {
	w.mu.Lock()
	failed, recovered := w.failed, w.recovered
	w.mu.Unlock()
	if failed == nil {
		return
	}
	select {
	case <-recovered:
	case <-w.running.Done():
		runtime.Goexit()
	}
}

// SetUint64 implements raft.StableStore. When it starts, raft sets again what it has just
// read; that writes nothing.
func (w *watch) SetUint64(key []byte, value uint64) error {
	if w.raisesTerm(key, value) {
		w.config.Raising.Lock()
		defer w.config.Raising.Unlock()
	}
	var later uint64
	err := w.persist(key, func() error {
		stored, err := w.backend.GetUint64(key)
		switch {
		case err != nil || stored < value || !w.raftStarted.Load() && stored > value:
			return w.setNumber(key, value)
		case stored > value:
			later = stored
		}
		return nil
	})
	if later > 0 {
		// Back in an earlier term it could vote twice, or lead a term that is another's.
		w.config.Fatal(fmt.Errorf("raft would go back to %s %d, and has come to %d already", key, value, later))
		runtime.Goexit()
	}
	return err
}

// raisesTerm reports whether this sets the current term to a later one.
func (w *watch) raisesTerm(key []byte, value uint64) bool {
	if w.config.Raising == nil || !bytes.Equal(key, logstore.TermKey) {
		return false
	}
	stored, err := w.backend.GetUint64(key)
	return err == nil && stored < value
}

// placeholderCandidate stands for the candidate while a vote is being written. It is no
// address, so no candidate has it.
var placeholderCandidate = []byte("nobody yet")

// setNumber stores value. Raft stores the term of a vote before its candidate. If this
// instance were killed in between, the candidate of the earlier vote would have this vote
// too, and raft would not check its log again. So the earlier candidate is erased first.
func (w *watch) setNumber(key []byte, value uint64) error {
	if bytes.Equal(key, logstore.VoteTermKey) {
		if err := w.backend.Set(logstore.VoteCandidateKey, placeholderCandidate); err != nil {
			return err
		}
	}
	return w.backend.SetUint64(key, value)
}

func (w *watch) persist(key []byte, write func() error) error {
	what := fmt.Sprintf("store %s", key)
	for {
		err := w.writeStable(what, write)
		if err == nil {
			return nil
		}
		w.reportFailure(what, err)
		if !w.raftStarted.Load() {
			return err
		}
		w.pauseOrExit()
	}
}

func (w *watch) writeStable(what string, write func() error) error {
	w.stable <- struct{}{}
	defer func() { <-w.stable }()
	return w.timed(what, func() error {
		if err := w.config.CheckPresent(); err != nil {
			return err
		}
		return write()
	})
}

// Close closes the store. Raft must be done with it.
func (w *watch) Close() error {
	w.StopRetrying()
	w.probeDone.Wait()
	return w.backend.Close()
}
