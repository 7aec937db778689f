// Package wal keeps a raft log in a write-ahead log of its own: files to which batches
// of records are appended, and an index of them in memory. It writes each record once,
// except the term and the vote, which every file begins with, and it never returns a
// record that differs from what was written.
//
// # Durability
//
// A batch becomes durable with one write and one fdatasync. The file already has its full
// size and all its blocks, so the file system has nothing to add. A batch is stored whole
// or not at all. A removal of entries, anywhere in the log, is a record as well. A file is
// deleted when all entries in it and in the files before it are removed.
//
// # Damage
//
// Open reads everything: see replay for how it tells an unfinished write from damage.
// GetLog reads the record of an entry again and verifies its checksum each time.
//
// # Cost
//
// An entry takes 24 bytes of memory; there is no cache. A goroutine creates the next file
// before it is needed. On disk, the store takes what the log holds and at most three more
// files.
package wal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// dirName is the store's name in the data directory.
const dirName = "log.wal"

// appendRoom is the room that raft's usual batch may need: a segment for it, and another
// one for what follows.
const appendRoom = 2 * segmentSize

// Open opens or creates log.wal in dir. It is a logstore.Opener.
func Open(dir string, logger *slog.Logger) (logstore.Store, error) {
	path := filepath.Join(dir, dirName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	s, err := open(dir, path, logger.With("store", "wal"))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func open(dir, path string, logger *slog.Logger) (*store, error) {
	listed, err := prepareDir(dir, path)
	if err != nil {
		return nil, err
	}
	found, err := replayAll(path, listed, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(found.rewriteLast(listed), found.repair(path, logger)); err != nil {
		return nil, errors.Join(err, found.close())
	}
	s := newStore(path, logger, listed, found)
	if len(s.segments) == 0 {
		if err := s.rotate(0); err != nil {
			return nil, errors.Join(err, s.closeFiles())
		}
	}
	s.wakeKeeper()
	go s.keeper()
	return s, nil
}

// prepareDir creates path if it is missing and makes its name durable. It returns the list
// of segments, which is empty for a new store.
func prepareDir(dir, path string) (list, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return list{}, err
	}
	if err := logstore.SyncDir(dir); err != nil {
		return list{}, err
	}
	listed, found, err := readList(path)
	if err != nil {
		return list{}, err
	}
	if found {
		// The process that renamed the list into place may have been killed before that was
		// durable. Entries in a file that only this list names would be lost with it.
		return listed, logstore.SyncDir(path)
	}
	if err := logstore.CheckRoom(path, 0, appendRoom); err != nil {
		return list{}, err
	}
	// The list is written before the first segment: segments without a list are damage.
	return listed, listed.write(path)
}

// Inspect opens log.wal in dir for reading only: see logstore.Backend.
func Inspect(dir string, logger *slog.Logger) (logstore.Store, error) {
	path := filepath.Join(dir, dirName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	listed, _, err := readList(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	found, err := replayAll(path, listed, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if len(found.segments) == 0 {
		return nil, fmt.Errorf("%w: %s", logstore.ErrNoStore, path)
	}
	found.warn(logger)
	s := newStore(path, logger, listed, found)
	s.inspected = true
	close(s.stopped) // no keeper runs
	return logstore.ReadOnly(s), nil
}

type store struct {
	logstore.Calls
	path      string
	logger    *slog.Logger
	inspected bool // opened by Inspect: nothing is written

	// writeMu serializes writers, and guards the fields that only they use.
	writeMu  sync.Mutex
	buffer   batch
	next     uint64 // number of the next batch
	tries    uint64 // failed attempts to write the next batch
	rotating bool   // one of these attempts was made in the next segment
	marked   bool   // the last batch says that everything before it was written

	// filesMu is held while files are created or removed, or the list is replaced.
	filesMu       sync.Mutex
	unlisted      []*segment // created, but not in the list yet; guarded by filesMu
	wake          chan struct{}
	stop, stopped chan struct{} // of the keeper

	mu          sync.RWMutex // guards all fields below; never held while waiting for the disk
	listed      list         // as it is on disk; changed only with filesMu held
	lastAtOpen  uint64       // number of the last batch when the store was opened; 0 if there was none
	lastDurable uint64       // number of the last batch that is durable
	segments    []*segment   // those in use; mu also guards their end and live
	tail        *segment     // the last of segments; changed only with writeMu held
	spares      []*segment   // the segments after tail, not begun yet
	places      places
	values      map[string][]byte // the stable state; changed only with writeMu held
}

func newStore(path string, logger *slog.Logger, listed list, found *replay) *store {
	s := &store{
		path: path, logger: logger,
		next: found.next, marked: found.closed || found.next == 1,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		listed: listed, lastAtOpen: found.next - 1, lastDurable: found.next - 1,
		segments: found.segments, spares: found.spares,
		places: found.places, values: found.values,
	}
	if count := len(s.segments); count > 0 {
		s.tail = s.segments[count-1]
	}
	return s
}

// writing is During for one writer at a time.
func (s *store) writing(call func() error) error {
	return s.During(func() error {
		s.writeMu.Lock()
		defer s.writeMu.Unlock()
		s.buffer.reset()
		return call()
	})
}

func (s *store) bounds() (first, last uint64, err error) {
	err = s.During(func() error {
		s.mu.RLock()
		defer s.mu.RUnlock()
		first, last = s.places.bounds()
		return nil
	})
	return first, last, err
}

func (s *store) FirstIndex() (uint64, error) {
	first, _, err := s.bounds()
	return first, err
}

func (s *store) LastIndex() (uint64, error) {
	_, last, err := s.bounds()
	return last, err
}

func (s *store) GetLog(index uint64, log *raft.Log) error {
	return s.During(func() error {
		s.mu.RLock()
		at, found := s.places.find(index)
		if !found {
			s.mu.RUnlock()
			return raft.ErrLogNotFound
		}
		in := s.places.all[at]
		end := in.segment.end
		in.segment.fileMu.RLock()
		defer in.segment.fileMu.RUnlock()
		s.mu.RUnlock()
		record, err := in.segment.read(in, end)
		if err != nil {
			return err
		}
		entry, err := entryOf(record.payload)
		if err != nil {
			return err
		}
		*log = entry
		return nil
	})
}

func (s *store) StoreLog(log *raft.Log) error {
	return s.StoreLogs([]*raft.Log{log})
}

func (s *store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return s.During(func() error { return nil })
	}
	return s.writing(func() error {
		for _, log := range logs {
			if err := s.buffer.addEntry(log); err != nil {
				return fmt.Errorf("store log entry %d: %w", log.Index, err)
			}
		}
		return s.commit(reserve, func(in *segment) {
			for at, record := range s.buffer.records {
				s.places.put(place{index: logs[at].Index, segment: in, at: uint32(in.end) + uint32(record.at), size: uint32(record.size)})
			}
		})
	})
}

func (s *store) DeleteRange(min, max uint64) error {
	return s.writing(func() error {
		if !s.holds(min, max) {
			return nil
		}
		if err := s.buffer.addRemoval(min, max); err != nil {
			return err
		}
		if err := s.commit(0, func(*segment) { s.places.remove(min, max) }); err != nil {
			return fmt.Errorf("delete log entries %d to %d: %w", min, max, err)
		}
		return nil
	})
}

func (s *store) holds(min, max uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, _ := s.places.find(min)
	return at < len(s.places.all) && s.places.all[at].index <= max
}

func (s *store) Set(key, value []byte) error {
	return s.writing(func() error {
		if err := s.buffer.addValue(string(key), value); err != nil {
			return err
		}
		return s.commit(0, func(*segment) { s.values[string(key)] = bytes.Clone(value) })
	})
}

func (s *store) Get(key []byte) (value []byte, err error) {
	err = s.During(func() error {
		s.mu.RLock()
		defer s.mu.RUnlock()
		stored, found := s.values[string(key)]
		if !found {
			return logstore.ErrKeyNotFound
		}
		value = bytes.Clone(stored)
		return nil
	})
	return value, err
}

func (s *store) SetUint64(key []byte, value uint64) error { return logstore.SetUint64(s, key, value) }

func (s *store) GetUint64(key []byte) (uint64, error) { return logstore.GetUint64(s, key) }

// Room implements logstore.Roomy. The free part of the segments is allocated already.
func (s *store) Room() error {
	return s.During(func() error {
		return logstore.CheckRoom(s.path, uint64(s.free()), appendRoom)
	})
}

// free returns how many bytes of the segments are free for entries.
func (s *store) free() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	left := max(0, s.tail.size-s.tail.end-reserve)
	for _, spare := range s.spares {
		left += spare.size
	}
	return left
}

func (s *store) Close() error {
	return s.End(func() error {
		close(s.stop)
		<-s.stopped
		s.mark()
		return s.closeFiles()
	})
}

func (s *store) closeFiles() error {
	var failed []error
	for _, segment := range slices.Concat(s.segments, s.spares, s.unlisted) {
		failed = append(failed, segment.close())
	}
	return errors.Join(failed...)
}

// mark records that everything was written, so that damage at the end of the log is not
// taken for an unfinished write. It does so with a record, which is all that builds without
// list.Reaches look at, and in the list, which survives when the end of the log is lost.
// A failure to do so does not keep the store from closing.
func (s *store) mark() {
	if s.inspected {
		return
	}
	if err := errors.Join(s.markLog(), s.raiseReaches()); err != nil {
		s.logger.Debug("the end of the log could not be marked", "error", err)
	}
}

func (s *store) markLog() error {
	if s.marked {
		return nil
	}
	s.buffer.reset()
	if err := s.buffer.addClosed(); err != nil {
		return err
	}
	return s.commit(0, func(*segment) {})
}

// commit makes the batch in the buffer durable, keeping leave bytes of the segment free.
// Then it calls done, with mu held, to make the change visible; the end of the segment
// that done is given is where the batch begins.
func (s *store) commit(leave int64, done func(*segment)) error {
	size := int64(len(s.buffer.raw))
	// An attempt to write this batch to the next segment may have reached the disk. Then
	// replay ignores what is written to the present one from here on.
	if s.rotating || s.tail.end+size+leave > s.tail.size {
		if err := s.rotate(size + leave); err != nil {
			return err
		}
	}
	if err := s.append(s.tail, &s.buffer); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done(s.tail)
	s.tail.end += size
	s.lastDurable = s.next - 1
	s.wakeKeeper()
	return nil
}

// append writes b as the next batch. The caller moves the end of the segment.
func (s *store) append(to *segment, b *batch) error {
	b.seal(to.seed, s.next<<tryBits|s.tries&(1<<tryBits-1))
	if err := to.write(b.raw); err != nil {
		// Any part of the batch may be on the disk. The next attempt overwrites it under
		// another number, so that replay never mixes parts of the two.
		s.tries++
		return err
	}
	s.next++
	s.tries = 0
	s.marked = false
	return nil
}

// rotate makes the next segment the tail. It begins with the stable state, and has at least
// room bytes after it.
func (s *store) rotate(room int64) error {
	// Without stable state there is still a first batch: replay needs its number once the
	// segments before are removed.
	var first batch
	if len(s.values) == 0 {
		if err := first.addClosed(); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.values)) {
		if err := first.addValue(key, s.values[key]); err != nil {
			return err
		}
	}
	size := max(segmentSize, segmentHeader+int64(len(first.raw))+room)
	if size > math.MaxUint32 {
		return fmt.Errorf("%d bytes are too many for one batch", room)
	}
	if err := s.ensureSpare(size); err != nil {
		return err
	}
	s.mu.RLock()
	spares := s.spares
	s.mu.RUnlock()
	tail := spares[len(spares)-1]
	s.rotating = true
	if err := s.append(tail, &first); err != nil {
		return err
	}
	s.rotating = false
	s.mu.Lock()
	defer s.mu.Unlock()
	tail.end += int64(len(first.raw))
	s.lastDurable = s.next - 1
	s.segments = append(s.segments, spares...)
	s.spares = nil
	s.tail = tail
	return nil
}
