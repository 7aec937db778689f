package disk

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Store is the log and the stable store that raft is given, on top of a log store.
//
// It lets a leader send its entries before they are on its own disk, so that the disks of
// all instances work at the same time (Ongaro's thesis, section 10.2.1). Raft 1.7.3 takes an
// entry for stored once it has given it to the log, and counts the leader in the majority
// that has it. Still, raft commits only entries that are on the leader's disk:
//
//   - Raft learns of another instance's acknowledgement only once the entry is stored here,
//     too, because the transport calls Await before, and needs such an acknowledgement to
//     commit. If this instance is a majority by itself, or an entry may make it one, raft
//     waits for the disk.
//   - An instance that no longer leads waits for the disk before it says anything of the
//     entries: those that the next leader finds here count for its majority.
//
// Safe for concurrent use, as a logstore.Store is.
type Store struct {
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

// New returns a Store on top of store, which Close closes, too.
func New(store logstore.Store, config Config) *Store {
	return &Store{
		entryCache: &entryCache{watch: newWatch(store, config)},
		progress:   make(chan struct{}),
	}
}

var errNotStored = errors.New("the disk of this instance has not stored the entry")

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore. Raft calls it in the goroutine in which it
// becomes, and ceases to be, a leader. If the error is a *Trouble, a *logstore.NoRoomError
// or logstore.ErrDirectoryGone, nothing was written.
func (s *Store) StoreLogs(entries []*raft.Log) error {
	if !s.mayRunAhead(entries) {
		if err := s.settle(); err != nil {
			return err
		}
		return s.entryCache.StoreLogs(entries)
	}
	if err := s.checkReady(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, entries...)
	if !s.running {
		s.running = true
		s.writing.Go(s.write)
	}
	return nil
}

// mayRunAhead says whether entries may be sent before they are stored. Entries that change
// the membership may not, because this instance alone may commit them; nor may any after the
// end of the log was removed, because raft must not go on while that is not replaced; nor
// entries that do not follow the pending ones: an installed snapshot may leave a gap.
func (s *Store) mayRunAhead(entries []*raft.Log) bool {
	if !s.config.Leads() || !s.config.NeedsOthers() || s.truncated.Load() {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := len(s.pending); n > 0 && s.pending[n-1].Index+1 != entries[0].Index {
		return false
	}
	return !slices.ContainsFunc(entries, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
}

// write stores pending entries until there are none. It retries as long as it takes: it is
// too late to tell raft of an error.
func (s *Store) write() {
	stored := false
	defer func() {
		if !stored { // this instance is being closed, and pauseOrExit has ended this goroutine
			s.lose()
		}
	}()
	for batch := s.batch(); len(batch) > 0; batch = s.batch() {
		s.entryCache.storeUntilDone(batch)
		s.stored(len(batch))
	}
	stored = true
}

// batch returns the first pending entries, as many as one append may hold. If there are
// none, write ends, and the next entry starts it again.
func (s *Store) batch() []*raft.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = len(s.pending) > 0
	return firstEntries(s.pending[:min(len(s.pending), s.config.MaxBatch)], maxAppend)
}

// firstEntries returns the first entries, as many as have at most that many bytes together, but
// at least one.
func firstEntries(entries []*raft.Log, bytes int) []*raft.Log {
	sum := 0
	for i, entry := range entries {
		sum += len(entry.Data) + len(entry.Extensions)
		if sum > bytes && i > 0 {
			return entries[:i]
		}
	}
	return entries
}

func (s *Store) stored(count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = slices.Clone(s.pending[count:])
	s.advance()
}

func (s *Store) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
	s.advance()
}

// advance wakes everybody that waits for progress. The caller holds the lock.
func (s *Store) advance() {
	close(s.progress)
	s.progress = make(chan struct{})
}

// Await waits until no entry up to index is pending (see Pending). It returns false if done
// is closed first, or if the entries will never be stored because this instance is closed.
func (s *Store) Await(index uint64, done <-chan struct{}) bool {
	for {
		s.mu.RLock()
		here := len(s.pending) == 0 || s.pending[0].Index > index
		lost, progress := s.lost, s.progress
		s.mu.RUnlock()
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
// instance is closed first, settle ends raft's main goroutine (see pauseOrExit).
func (s *Store) settle() error {
	if !s.config.Leads() {
		return s.follow(math.MaxUint64)
	}
	if !s.Await(math.MaxUint64, nil) {
		runtime.Goexit()
	}
	return nil
}

// follow waits until no entry up to index is pending, or until the disk is in trouble: a
// follower that waited for such a disk could not make room on it, nor vote.
func (s *Store) follow(index uint64) error {
	if s.Await(index, s.Stalled()) {
		return nil
	}
	if err := s.Fault(); err != nil {
		return err
	}
	return errNotStored
}

// Pending returns the entry at index if it is pending: raft takes it for stored, but it is
// not on the disk yet. Otherwise Pending returns nil.
func (s *Store) Pending(index uint64) *raft.Log {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.pending) == 0 || index < s.pending[0].Index || index > s.pending[len(s.pending)-1].Index {
		return nil
	}
	return s.pending[index-s.pending[0].Index]
}

// GetLog implements raft.LogStore. It returns a pending entry only to a leader, which sends
// it, or if the entry is committed, so that it can be applied. Otherwise it waits until
// the entry is stored: a follower that finds an entry acknowledges it.
func (s *Store) GetLog(index uint64, entry *raft.Log) error {
	pending := s.Pending(index)
	if pending != nil && (s.config.Leads() || index <= s.config.Committed()) {
		*entry = *pending
		return nil
	}
	if pending != nil {
		if err := s.follow(index); err != nil {
			return err
		}
	}
	return s.entryCache.GetLog(index, entry)
}

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := len(s.pending); n > 0 {
		return s.pending[n-1].Index, nil
	}
	return s.entryCache.LastIndex()
}

// DeleteRange implements raft.LogStore.
func (s *Store) DeleteRange(from, to uint64) error {
	if err := s.follow(to); err != nil {
		return err
	}
	return s.entryCache.DeleteRange(from, to)
}

// Close closes the store once the last write has ended. Raft must be done with it.
func (s *Store) Close() error {
	s.StopRetrying()
	s.writing.Wait()
	return s.entryCache.Close()
}
