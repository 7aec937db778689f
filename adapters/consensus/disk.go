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

// storeEntries is what the disk is asked to do when entries are appended.
const storeEntries = "store log entries"

// errHangs is why nobody waits for an entry any longer.
var errHangs = errors.New("the disk of this instance does not answer")

// hangAfter is how long an operation of the store may take.
func (t Timing) hangAfter() time.Duration { return max(shortestHang, hangElections*t.ElectionTimeout) }

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

// Close closes the store. Raft must be done with it.
func (d *disk) Close() error {
	d.letGo()
	d.probing.Wait()
	return d.Store.Close()
}
