package consensus

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// aheadLog lets a leader send its entries before they are on its own disk, so that the
// disks of all instances work at the same time (Ongaro's thesis, section 10.2.1). Raft
// 1.7.3 takes an entry for stored once it has given it to the log, and counts the leader
// in the majority that has it. Still, raft commits only entries that are on the leader's
// disk:
//
//   - Raft learns of another instance's acknowledgement only once the entry is stored here,
//     too (see await), and needs such an acknowledgement to commit. If this instance is a
//     majority by itself, or an entry may make it one, raft waits for the disk.
//   - An instance that no longer leads waits for the disk before it says anything of the
//     entries: those that the next leader finds here count for its majority.
//
// Safe for concurrent use, as raft.LogStore is.
type aheadLog struct {
	*entryCache

	mu       sync.RWMutex
	pending  []*raft.Log   // contiguous entries that raft takes for stored and that are not yet
	running  bool          // write runs
	lost     bool          // the pending entries will never be stored
	progress chan struct{} // closed when pending gets shorter, or lost is set
	writing  sync.WaitGroup
}

// maxAppend is how many bytes of entries are appended at once, if it is more than one:
// see logstore.Roomy.
const maxAppend = 1 << 20

// newAheadLog returns the log and the stable state that raft is given, on store. Its
// Close closes store.
func newAheadLog(store logstore.Store, config diskConfig) *aheadLog {
	return &aheadLog{
		entryCache: &entryCache{disk: newDisk(store, config)},
		progress:   make(chan struct{}),
	}
}

var errNotStored = errors.New("the disk of this instance has not stored the entry")

// StoreLog implements raft.LogStore.
func (a *aheadLog) StoreLog(entry *raft.Log) error { return a.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore. Raft calls it in the goroutine in which it
// becomes, and ceases to be, a leader.
func (a *aheadLog) StoreLogs(entries []*raft.Log) error {
	if !a.mayRunAhead(entries) {
		if err := a.settle(); err != nil {
			return err
		}
		return a.entryCache.StoreLogs(entries)
	}
	if err := a.disk.checkReady(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = append(a.pending, entries...)
	if !a.running {
		a.running = true
		a.writing.Go(a.write)
	}
	return nil
}

// mayRunAhead says whether entries may be sent before they are stored. Entries that change
// the membership may not, because this instance alone may commit them; nor may any after the
// end of the log was removed, because raft must not go on while that is not replaced; nor
// entries that do not follow the pending ones: an installed snapshot may leave a gap.
func (a *aheadLog) mayRunAhead(entries []*raft.Log) bool {
	if !a.config.leads() || !a.config.needsOthers() || a.disk.truncated.Load() {
		return false
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n := len(a.pending); n > 0 && a.pending[n-1].Index+1 != entries[0].Index {
		return false
	}
	return !slices.ContainsFunc(entries, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
}

// write stores pending entries until there are none. It retries as long as it takes: it is
// too late to tell raft of an error.
func (a *aheadLog) write() {
	stored := false
	defer func() {
		if !stored { // this instance is being closed, and keep has ended this goroutine
			a.lose()
		}
	}()
	for batch := a.batch(); len(batch) > 0; batch = a.batch() {
		a.entryCache.storeUntilDone(batch)
		a.stored(len(batch))
	}
	stored = true
}

// batch returns the first pending entries, as many as one append may hold. If there are
// none, write ends, and the next entry starts it again.
func (a *aheadLog) batch() []*raft.Log {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running = len(a.pending) > 0
	return firstBytes(a.pending[:min(len(a.pending), a.config.maxBatch)], maxAppend)
}

// firstBytes returns the first entries that have at most that many bytes together, and at
// least one entry.
func firstBytes(entries []*raft.Log, bytes int) []*raft.Log {
	sum := 0
	for i, entry := range entries {
		sum += len(entry.Data) + len(entry.Extensions)
		if sum > bytes && i > 0 {
			return entries[:i]
		}
	}
	return entries
}

func (a *aheadLog) stored(count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = slices.Clone(a.pending[count:])
	a.advance()
}

func (a *aheadLog) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = true
	a.advance()
}

// advance wakes everybody that waits for progress. The caller holds the lock.
func (a *aheadLog) advance() {
	close(a.progress)
	a.progress = make(chan struct{})
}

// await waits until no entry up to index is pending. It returns false if done is closed
// first, or if the entries will never be stored.
func (a *aheadLog) await(index uint64, done <-chan struct{}) bool {
	for {
		a.mu.RLock()
		here := len(a.pending) == 0 || a.pending[0].Index > index
		lost, progress := a.lost, a.progress
		a.mu.RUnlock()
		if here || lost {
			return here
		}
		select {
		case <-progress:
		case <-done:
			return false
		}
	}
}

// settle waits until nothing is pending. A leader's raft can't be told of an error: if this
// instance is closed first, settle ends raft's main goroutine (see disk.pauseOrExit).
func (a *aheadLog) settle() error {
	if !a.config.leads() {
		return a.follow(math.MaxUint64)
	}
	if !a.await(math.MaxUint64, nil) {
		runtime.Goexit()
	}
	return nil
}

// follow waits until no entry up to index is pending, or until the disk is in trouble: a
// follower that waited for such a disk could not make room on it, nor vote.
func (a *aheadLog) follow(index uint64) error {
	if a.await(index, a.disk.whileStalled()) {
		return nil
	}
	if err := a.disk.fault(); err != nil {
		return err
	}
	return errNotStored
}

// find returns the entry at index if it is pending; nil otherwise.
func (a *aheadLog) find(index uint64) *raft.Log {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if len(a.pending) == 0 || index < a.pending[0].Index || index > a.pending[len(a.pending)-1].Index {
		return nil
	}
	return a.pending[index-a.pending[0].Index]
}

// GetLog implements raft.LogStore. It returns a pending entry only to a leader, which sends
// it, or if the entry is committed, so that it can be applied. Otherwise it waits until
// the entry is stored: a follower that finds an entry acknowledges it.
func (a *aheadLog) GetLog(index uint64, entry *raft.Log) error {
	pending := a.find(index)
	if pending != nil && (a.config.leads() || index <= a.config.committed()) {
		*entry = *pending
		return nil
	}
	if pending != nil {
		if err := a.follow(index); err != nil {
			return err
		}
	}
	return a.entryCache.GetLog(index, entry)
}

// LastIndex implements raft.LogStore.
func (a *aheadLog) LastIndex() (uint64, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n := len(a.pending); n > 0 {
		return a.pending[n-1].Index, nil
	}
	return a.entryCache.LastIndex()
}

// DeleteRange implements raft.LogStore.
func (a *aheadLog) DeleteRange(from, to uint64) error {
	if err := a.follow(to); err != nil {
		return err
	}
	return a.entryCache.DeleteRange(from, to)
}

// Close closes the store once the last write has ended. Raft must be done with it.
func (a *aheadLog) Close() error {
	a.stopRetrying()
	a.writing.Wait()
	return a.entryCache.Close()
}
