package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// storeEntries is what the disk is asked to do when entries are appended.
const storeEntries = "store log entries"

// disk is the log store, as raft sees it, with a watch over it. Raft takes for
// granted that a disk answers: it stores a leader's entries in the one goroutine
// that could give up leadership, while others go on with the heartbeats; and it
// panics when it can't store a term. So
//
//   - while an operation hangs, or after one has failed, there is trouble: see
//     mutedTransport and Node for what an instance in trouble does not do;
//   - the term and the vote are stored, or tried again, for as long as it takes;
//   - so are entries, unless raft can be told for sure that nothing was written, and
//     takes that well: it remembers an end of the log that it has removed, a
//     membership that it could not write down, and what it was told is stored (see
//     aheadLog).
//
// Safe for concurrent use, as a Store is.
type disk struct {
	logstore.Store
	config diskConfig

	armed     atomic.Bool // raft has started, and can't be told of every error any more
	truncated atomic.Bool // the end of the log was removed, and nothing stored since
	trouble   atomic.Pointer[trouble]
	count     atomic.Uint64 // of troubles

	stable chan struct{} // holds a token while the stable state is written

	mu      sync.Mutex
	hanging map[*operation]struct{}
	hung    chan struct{} // closed while something hangs, or is insisted on
	insists int           // on changes of the log that have failed, in spite of what else succeeds
	failed  *trouble      // nil: nothing has failed since the last write that succeeded
	fine    chan struct{} // closed when failed ends
	probes  bool          // probe runs

	closing chan struct{}
	once    sync.Once
	probing sync.WaitGroup
}

type diskConfig struct {
	hangAfter time.Duration
	// self is what raft stores when this instance votes for itself.
	self   []byte
	logger *slog.Logger
	// present says why what is written would be lost; nil for no reason.
	present func() error
	// leads says whether raft appends what it proposes itself.
	leads func() bool
	// appended is told of entries that were stored.
	appended func([]*raft.Log)
	// took is told how long that was; nil: nobody is.
	took func(time.Duration)
	// changed is called when trouble begins, changes or ends; it must not block.
	changed func()
	// halt reports what this instance can't go on with, and returns when it is
	// being closed.
	halt func(error)
	// raising is held while a later term is stored; it may be nil.
	raising sync.Locker
}

func newDisk(store logstore.Store, config diskConfig) *disk {
	return &disk{
		Store:   store,
		config:  config,
		hanging: map[*operation]struct{}{},
		fine:    make(chan struct{}),
		hung:    make(chan struct{}),
		closing: make(chan struct{}),
		stable:  make(chan struct{}, 1),
	}
}

// StoreLog implements raft.LogStore.
func (d *disk) StoreLog(log *raft.Log) error { return d.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (d *disk) StoreLogs(logs []*raft.Log) error {
	err := d.append(logs)
	if err != nil && d.mustStore(logs, err) {
		d.insist(logs)
		return nil
	}
	return err
}

// mustStore says whether raft would be wrong about the log, had it to live without
// logs, which could not be appended because of err. Only what there is no room for is certainly not
// on the disk; and a leader takes a membership for the latest that it failed to store.
func (d *disk) mustStore(logs []*raft.Log, err error) bool {
	if d.truncated.Load() {
		return true
	}
	nothingWritten := errors.As(err, new(*logstore.NoRoomError)) || errors.Is(err, logstore.ErrDirectoryGone)
	changesMembers := slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
	return d.armed.Load() && (!nothingWritten || changesMembers && d.config.leads())
}

// insist appends logs for as long as it takes. The others elect another leader
// meanwhile, and whatever that one says of them comes later.
func (d *disk) insist(logs []*raft.Log) {
	d.insisting(true)
	d.again()
	for d.append(logs) != nil {
		d.again()
	}
	d.insisting(false)
	d.works()
}

func (d *disk) insisting(does bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.insists
	if does {
		d.insists++
	} else {
		d.insists--
	}
	switch {
	case len(d.hanging) > 0: // which is known already
	case before == 0:
		close(d.hung)
	case d.insists == 0:
		d.hung = make(chan struct{})
	}
}

// ready is why entries can't be stored now; nil when nothing speaks against it.
func (d *disk) ready() error {
	if err := d.refusal(); err != nil {
		return err
	}
	err := d.during(storeEntries, d.room)
	if err != nil {
		d.fails(storeEntries, err)
	}
	return err
}

func (d *disk) append(logs []*raft.Log) error {
	began := time.Now()
	err := d.during(storeEntries, func() error {
		if err := d.room(); err != nil {
			return err
		}
		return d.Store.StoreLogs(logs)
	})
	if err != nil {
		d.fails(storeEntries, err)
		return err
	}
	if d.config.took != nil {
		d.config.took(time.Since(began))
	}
	d.truncated.Store(false)
	d.config.appended(logs)
	if d.trouble.Load() != nil {
		d.works()
	}
	return nil
}

// DeleteRange implements raft.LogStore. Raft goes on where it fails, which it must not
// when a part of the log's end is gone.
func (d *disk) DeleteRange(from, to uint64) error {
	last, err := d.Store.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	const what = "remove log entries"
	remove := func() error { return d.Store.DeleteRange(from, to) }
	err = d.during(what, remove)
	if err != nil && to >= last && d.armed.Load() {
		d.insisting(true)
		for err != nil {
			d.fails(what, err)
			d.again()
			err = d.during(what, remove)
		}
		d.insisting(false)
		d.works()
	}
	if err == nil && to >= last {
		d.truncated.Store(true)
	}
	return err
}

// GetLog implements raft.LogStore. A disk that gives what was not written can't be relied
// on any more: the instance ends, and at its next start it sets aside what is damaged.
func (d *disk) GetLog(index uint64, log *raft.Log) error {
	err := d.during("read a log entry", func() error { return getProven(d.Store, index, log) })
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, logstore.ErrClosed) || !d.armed.Load() {
		return err
	}
	// Raft panics where it needs the entry to apply it, and sends it to others.
	d.config.halt(fmt.Errorf("log entry %d can't be read: %w", index, err))
	runtime.Goexit()
	return err
}

// Set implements raft.StableStore.
func (d *disk) Set(key, value []byte) error {
	if bytes.Equal(key, logstore.VoteCandidateKey) && bytes.Equal(value, d.config.self) {
		d.awaitFine()
	}
	return d.persist(key, func() error { return d.Store.Set(key, value) })
}

// awaitFine keeps an instance from voting for itself that could not write as a
// leader. Nobody else asks it to: but a lone voter would be elected again and
// again.
func (d *disk) awaitFine() {
	d.mu.Lock()
	failed, fine := d.failed, d.fine
	d.mu.Unlock()
	if failed == nil {
		return
	}
	select {
	case <-fine:
	case <-d.closing:
		runtime.Goexit()
	}
}

// SetUint64 implements raft.StableStore. Raft sets again, when it starts, what it
// has just read.
func (d *disk) SetUint64(key []byte, value uint64) error {
	if d.raises(key, value) {
		d.config.raising.Lock()
		defer d.config.raising.Unlock()
	}
	var later uint64
	err := d.persist(key, func() error {
		stored, err := d.Store.GetUint64(key)
		switch {
		case err != nil || stored < value || !d.armed.Load() && stored > value:
			return d.setNumber(key, value)
		case stored > value:
			later = stored
		}
		return nil
	})
	if later > 0 {
		// Who goes back to a term votes in it again, or leads one that is not its own.
		d.config.halt(fmt.Errorf("raft would go back to %s %d, and has come to %d already", key, value, later))
		runtime.Goexit()
	}
	return err
}

// raises says whether raft goes on to a later term.
func (d *disk) raises(key []byte, value uint64) bool {
	if d.config.raising == nil || !bytes.Equal(key, logstore.TermKey) {
		return false
	}
	stored, err := d.Store.GetUint64(key)
	return err == nil && stored < value
}

// noCandidate is in the place of a candidate while a vote is written: no candidate is called
// so.
var noCandidate = []byte("nobody yet")

// setNumber stores value. Raft stores the term of a vote before it stores for whom that is:
// were this instance killed in between, the candidate of an earlier term would have this vote
// too, and raft would not look at its log again. So that one is forgotten first.
func (d *disk) setNumber(key []byte, value uint64) error {
	if bytes.Equal(key, logstore.VoteTermKey) {
		if err := d.Store.Set(logstore.VoteCandidateKey, noCandidate); err != nil {
			return err
		}
	}
	return d.Store.SetUint64(key, value)
}

func (d *disk) persist(key []byte, write func() error) error {
	what := fmt.Sprintf("store %s", key)
	for {
		err := d.stably(what, write)
		if err == nil {
			return nil
		}
		d.fails(what, err)
		if !d.armed.Load() {
			return err
		}
		d.again()
	}
}

func (d *disk) stably(what string, write func() error) error {
	d.stable <- struct{}{}
	defer func() { <-d.stable }()
	return d.during(what, func() error {
		if err := d.config.present(); err != nil {
			return err
		}
		return write()
	})
}

// Close closes the store. Raft must be done with it.
func (d *disk) Close() error {
	d.letGo()
	d.probing.Wait()
	return d.Store.Close()
}
