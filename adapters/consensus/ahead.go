package consensus

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// ahead is the log of a leader that sends its entries before they are on its own
// disk, so that the disks of all work at the same time (Ongaro's thesis, section
// 10.2.1). Raft 1.7.3 takes for stored what it has given to the log, and counts the
// leader in the majority that has an entry. What it commits is on the leader's disk
// all the same:
//
//   - What others acknowledge is told to raft when it is here, too (see await), and
//     without another's acknowledgement raft commits nothing: where this instance is a
//     majority by itself, or an entry may make it one, raft waits for the disk.
//   - Who leads no more waits for the disk before anything is said of the entries: what
//     the next leader finds here counts for that one's majority.
//
// Safe for concurrent use, as raft.LogStore is.
type ahead struct {
	*logs
	leads       func() bool
	needsOthers func() bool   // to commit an entry
	committed   func() uint64 // the index up to which everything is on the disks of a majority

	mu       sync.RWMutex
	pending  []*raft.Log   // one after the other; raft takes them for stored
	running  bool          // write runs
	lost     bool          // the last of them never will be stored
	progress chan struct{} // closed when pending gets shorter, or lost
	writing  sync.WaitGroup
}

// maxAppend is how many bytes of entries are appended at once, if it is more than one:
// see logstore.Roomy.
const maxAppend = 1 << 20

var errNotStored = errors.New("the disk of this instance has not stored the entry")

// StoreLog implements raft.LogStore.
func (a *ahead) StoreLog(entry *raft.Log) error { return a.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore. Raft calls it in the goroutine in which it
// becomes, and ceases to be, a leader.
func (a *ahead) StoreLogs(entries []*raft.Log) error {
	if !a.mayRunAhead(entries) {
		if err := a.settle(); err != nil {
			return err
		}
		return a.logs.StoreLogs(entries)
	}
	if err := a.disk.ready(); err != nil {
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

// mayRunAhead leaves out what changes the members, because that may be committed by
// this instance alone; and what comes while the end of the log is missing, because raft
// must not go on without that. After a snapshot was installed there may be a gap.
func (a *ahead) mayRunAhead(entries []*raft.Log) bool {
	if !a.leads() || !a.needsOthers() || a.disk.truncated.Load() {
		return false
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n := len(a.pending); n > 0 && a.pending[n-1].Index+1 != entries[0].Index {
		return false
	}
	return !slices.ContainsFunc(entries, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
}

// write stores what is pending, for as long as that takes: raft can't be told of an
// error any more.
func (a *ahead) write() {
	stored := false
	defer func() {
		if !stored { // this instance is being closed
			a.lose()
		}
	}()
	for batch := a.batch(); len(batch) > 0; batch = a.batch() {
		a.logs.keep(batch)
		a.stored(len(batch))
	}
	stored = true
}

// batch gives what is pending, as much of it as a disk that has room takes at once; when
// nothing is, the next entry needs another write.
func (a *ahead) batch() []*raft.Log {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running = len(a.pending) > 0
	return first(a.pending[:min(len(a.pending), maxBatch)], maxAppend)
}

func (a *ahead) stored(count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = slices.Clone(a.pending[count:])
	a.advance()
}

func (a *ahead) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = true
	a.advance()
}

// advance needs the lock.
func (a *ahead) advance() {
	close(a.progress)
	a.progress = make(chan struct{})
}

// await waits until no entry up to index is pending; false: none of that will happen
// before done is closed, or at all.
func (a *ahead) await(index uint64, done <-chan struct{}) bool {
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

// settle waits until nothing is pending. Raft's leader could be told of no error: when
// this instance is closed before, its main goroutine ends here, see disk.again.
func (a *ahead) settle() error {
	if !a.leads() {
		return a.follow(math.MaxUint64)
	}
	if !a.await(math.MaxUint64, nil) {
		runtime.Goexit()
	}
	return nil
}

// follow waits until no entry up to index is pending. A follower that waits for a disk in
// trouble could make no room on it, and vote for nobody.
func (a *ahead) follow(index uint64) error {
	if a.await(index, a.disk.stuck()) {
		return nil
	}
	if err := a.disk.refusal(); err != nil {
		return err
	}
	return errNotStored
}

// find gives the entry at index if it is pending; nil otherwise.
func (a *ahead) find(index uint64) *raft.Log {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if len(a.pending) == 0 || index < a.pending[0].Index || index > a.pending[len(a.pending)-1].Index {
		return nil
	}
	return a.pending[index-a.pending[0].Index]
}

// GetLog implements raft.LogStore. A leader sends what is pending, and what is committed
// is applied. A follower that looks whether it has an entry acknowledges it if so.
func (a *ahead) GetLog(index uint64, entry *raft.Log) error {
	pending := a.find(index)
	if pending != nil && (a.leads() || index <= a.committed()) {
		*entry = *pending
		return nil
	}
	if pending != nil {
		if err := a.follow(index); err != nil {
			return err
		}
	}
	return a.logs.GetLog(index, entry)
}

// LastIndex implements raft.LogStore.
func (a *ahead) LastIndex() (uint64, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n := len(a.pending); n > 0 {
		return a.pending[n-1].Index, nil
	}
	return a.logs.LastIndex()
}

// DeleteRange implements raft.LogStore.
func (a *ahead) DeleteRange(from, to uint64) error {
	if err := a.follow(to); err != nil {
		return err
	}
	return a.logs.DeleteRange(from, to)
}

// Close closes the store, once nothing is written any more. Raft must be done with it.
func (a *ahead) Close() error {
	a.letGo()
	a.writing.Wait()
	return a.logs.Close()
}
