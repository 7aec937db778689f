// Package badger keeps a raft log in a badger database. It owns the database: its
// files, its compaction and the goroutine that runs it. It never keeps anything
// else in the database.
//
// # Durability
//
// Every transaction is synced before the call returns. All values stay in the LSM
// tree, that is in the write-ahead log and the tables: a large entry is cut into
// parts, so badger's separate value log stays empty. That matters for two reasons:
// badger only logs a failed sync of the value log, and it reclaims space there only
// after a full memtable is flushed, and pointers into the value log never fill one.
//
// badger writes to sparse files through a memory map. On a full disk the kernel
// answers such a write with a signal, which ends the process. So nothing is written,
// and no store opened, without room for it: see Room. If another process fills the
// disk just when badger writes a table, the signal still comes: nothing acknowledged
// is lost, and the instance starts again when there is room.
//
// # Cost
//
// Memtables of 2 MiB, no caches, two compactors: see optionsFor for why. DeleteRange
// only writes tombstones; the housekeeping goroutine has them applied, so that the
// disk use follows the log.
package badger

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// dirName is the store's name in the data directory.
const dirName = "log.badger"

// housekeepingInterval is the time between checks whether to compact. It is about raft's
// snapshot interval: entries are removed after a snapshot, not more often.
const housekeepingInterval = time.Minute

// What must be free on the disk, in bytes. badger writes tables in the background,
// through a memory map: room that a write does not need may be needed right after it.
const (
	// appendRoom is the room for flushing full memtables and merging the upper levels.
	// Room returns an error without it, so that no log entries are stored.
	appendRoom = 32 << 20
	// writeRoom is the room for one memtable and the table that it becomes. It is less
	// than appendRoom, for the term, the vote, and the removals that free room.
	writeRoom = 4 * memtableSize
	// openRoom is the room for a new memtable, and for the table of the one before.
	openRoom = 3 * memtableSize
)

// Open opens or creates log.badger in dir. It is a logstore.Opener.
func Open(dir string, logger *slog.Logger) (logstore.Store, error) {
	return open(dir, logger, housekeepingInterval)
}

func open(dir string, logger *slog.Logger, interval time.Duration) (logstore.Store, error) {
	path := filepath.Join(dir, dirName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler)).With("store", "badger")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create log store: %w", err)
	}
	if err := logstore.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("create log store: %w", err)
	}
	if err := logstore.CheckRoom(path, 0, openRoom); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if _, err := check(path, slog.New(slog.DiscardHandler)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := errors.Join(unmarkOpen(path), removeEmpty(path)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db, err := openDB(optionsFor(path, logger))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s, err := newStore(db, path, logger)
	if err == nil {
		err = markOpen(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, errors.Join(err, db.Close()))
	}
	s.removed.Store(unknownRemoved)
	go s.housekeep(interval)
	return s, nil
}

func openDB(options badger.Options) (db *badger.DB, err error) {
	// badger panics on some malformed files.
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%w (%v)", ErrDamagedTables, fault)
		}
	}()
	return badger.Open(options)
}

type store struct {
	logstore.Calls
	db     *badger.DB
	path   string
	logger *slog.Logger

	// writeMu serializes writers. refuseLostEntries relies on that: a transaction is in
	// the write-ahead log only if the one before it is durable.
	writeMu sync.Mutex

	// The indexes of the stored entries, and the stable values. They can't be looked up in the
	// tree: badger takes a block that it can't read for the end of its table, so that what is
	// in the block seems to be missing, or to have an earlier value. A search for the bounds
	// of the log would also step over the tombstones of all removed entries. Both are replaced
	// with writeMu held.
	indexes atomic.Pointer[indexes]
	stable  atomic.Pointer[map[string][]byte]

	removed atomic.Int64 // keys removed since housekeeping last acted on them

	stop, stopped chan struct{} // of the housekeeping goroutine
}

// newStore returns a store on db, which was checked before it was opened. The caller starts the
// housekeeping goroutine.
func newStore(db *badger.DB, path string, logger *slog.Logger) (*store, error) {
	s := &store{db: db, path: path, logger: logger, stop: make(chan struct{}), stopped: make(chan struct{})}
	stored := s.findIndexes()
	s.indexes.Store(&stored)
	values, err := s.storedValues()
	s.stable.Store(&values)
	return s, err
}

// writing is like During, but for one writer at a time, and it returns an error instead if
// there is no room on the disk.
func (s *store) writing(call func() error) error {
	return s.During(func() error {
		s.writeMu.Lock()
		defer s.writeMu.Unlock()
		if err := logstore.CheckRoom(s.path, 0, writeRoom); err != nil {
			return err
		}
		return call()
	})
}

func (s *store) FirstIndex() (index uint64, err error) {
	err = s.During(func() error {
		index = s.indexes.Load().first()
		return nil
	})
	return index, err
}

func (s *store) LastIndex() (index uint64, err error) {
	err = s.During(func() error {
		index = s.indexes.Load().last()
		return nil
	})
	return index, err
}

// Room implements logstore.Roomy.
func (s *store) Room() error {
	return s.During(func() error { return logstore.CheckRoom(s.path, 0, appendRoom) })
}

func (s *store) StoreLog(log *raft.Log) error {
	return s.StoreLogs([]*raft.Log{log})
}

func (s *store) Close() error {
	return s.End(func() error {
		close(s.stop)
		<-s.stopped
		return errors.Join(unmarkOpen(s.path), s.db.Close())
	})
}
