// Package bolt keeps a raft log in one bbolt file, by way of raft-boltdb. It adds
// to raft-boltdb what the contract of a store asks beyond it, and never writes to
// the file by itself.
//
// A batch is durable by two writes and two fdatasyncs of a single file: of the pages that
// it changes, and of the one that says which pages count. An idle store costs no goroutine
// and no cache. Removed entries leave free pages that later entries fill; the file never shrinks.
package bolt

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// fileName is what the store is called in its directory.
const fileName = "log.bolt"

// appendRoom is what raft's usual batch may take, with the pages above it.
const appendRoom = 4 << 20

// lockTimeout bounds the wait for bbolt's own lock, which is otherwise for ever.
// The claim on the directory keeps other instances away, so only a stray tool can hold it.
const lockTimeout = time.Second

// Open opens or creates log.bolt in dir. Every page in use is read once first, so
// that a torn or damaged file is an error that names it and not a panic in the
// middle of a term; that takes about a millisecond for each MB in use.
func Open(dir string, logger *slog.Logger) (logstore.Store, error) {
	path := filepath.Join(dir, fileName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	begin := time.Now()
	if _, err := verify(path, slog.New(slog.DiscardHandler)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	inner, err := openFile(path, false)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// bbolt does not, and what is in a file is lost with its name.
	if err := logstore.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, errors.Join(err, inner.Close()))
	}
	logger.Debug("opened log store", "path", path, "took", time.Since(begin))
	return &store{inner: inner, dir: dir}, nil
}

// Inspect opens log.bolt in dir for reading only: see logstore.Backend. It reads
// every page in use, as Open does.
func Inspect(dir string, logger *slog.Logger) (logstore.Store, error) {
	path := filepath.Join(dir, fileName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	written, err := verify(path, logger)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if !written {
		return nil, fmt.Errorf("%w: %s", logstore.ErrNoStore, path)
	}
	inner, err := openFile(path, true)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return logstore.ReadOnly(&store{inner: inner}), nil
}

func openFile(path string, readOnly bool) (inner *raftboltdb.BoltStore, err error) {
	defer guard(&err)
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:  lockTimeout,
			ReadOnly: readOnly,
			// The list of free pages is rebuilt when opening instead of being written
			// with every entry: a log that shrank has many, and would pay for all of
			// them with each append. The map finds a run of free pages at once, where
			// the array searches.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
		// AppendedAt as msgpack's own timestamp rather than as Go's binary form of a
		// time: other tools can read it. The decoder knows both.
		MsgpackUseNewTimeFormat: true,
	})
}

// store is raft-boltdb plus the contract. The lock is held for reading by every
// call, so that Close waits for them.
type store struct {
	mu     sync.RWMutex
	closed bool
	inner  *raftboltdb.BoltStore
	dir    string

	writeMu     sync.Mutex // puts writers in a row
	metaInDoubt bool       // the last of them has failed; guarded by writeMu
}

// during runs call unless the store is closed.
func (s *store) during(call func() error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return logstore.ErrClosed
	}
	return call()
}

// writing is during for one writer at a time.
//
// Where bbolt could not sync the page that says which pages count it goes by it all the
// same, and takes those for free which that page no longer names. On the disk there may
// be the one of before, with nothing to be written by another sync; so what is written next
// would spoil what the disk goes by. A transaction that changes nothing writes such a page
// again, and no other.
func (s *store) writing(call func() error) error {
	return s.during(func() error {
		s.writeMu.Lock()
		defer s.writeMu.Unlock()
		if s.metaInDoubt {
			if err := s.inner.StoreLogs(nil); err != nil {
				return err
			}
		}
		err := call()
		s.metaInDoubt = err != nil
		return err
	})
}

func (s *store) FirstIndex() (index uint64, err error) {
	err = s.during(func() error {
		index, err = s.inner.FirstIndex()
		return err
	})
	return index, err
}

func (s *store) LastIndex() (index uint64, err error) {
	err = s.during(func() error {
		index, err = s.inner.LastIndex()
		return err
	})
	return index, err
}

func (s *store) GetLog(index uint64, log *raft.Log) error {
	return s.during(func() error {
		// The decoder writes into the slices that it finds, which may be in use by
		// whoever got the last entry through the same log: give it a fresh one.
		var fresh raft.Log
		if err := s.inner.GetLog(index, &fresh); err != nil {
			return err
		}
		*log = fresh
		return nil
	})
}

func (s *store) StoreLog(log *raft.Log) error {
	return s.StoreLogs([]*raft.Log{log})
}

func (s *store) StoreLogs(logs []*raft.Log) error {
	return s.writing(func() error { return s.inner.StoreLogs(logs) })
}

// Room implements logstore.Roomy. bbolt itself survives a full disk; but once it has
// tried to write, nobody can be told that nothing was written.
func (s *store) Room() error {
	return s.during(func() error {
		reused := s.inner.Stats().FreePageN * os.Getpagesize()
		return logstore.CheckRoom(s.dir, uint64(reused), appendRoom)
	})
}

func (s *store) DeleteRange(min, max uint64) error {
	return s.writing(func() error { return s.inner.DeleteRange(min, max) })
}

func (s *store) Set(key, value []byte) error {
	return s.writing(func() error { return s.inner.Set(key, seal(key, value)) })
}

func (s *store) Get(key []byte) (value []byte, err error) {
	err = s.during(func() error {
		value, err = s.inner.Get(key)
		return err
	})
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, logstore.ErrKeyNotFound
	}
	if err != nil {
		return nil, err
	}
	return unseal(key, value)
}

func (s *store) SetUint64(key []byte, value uint64) error { return logstore.SetUint64(s, key, value) }

// GetUint64 does not ask raft-boltdb, which panics on a value of another length.
func (s *store) GetUint64(key []byte) (uint64, error) { return logstore.GetUint64(s, key) }

func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.inner.Close()
}
