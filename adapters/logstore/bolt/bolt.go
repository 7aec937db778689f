// Package bolt keeps a raft log in one bbolt file, using raft-boltdb. It adds what
// logstore.Store promises beyond raft-boltdb, and never writes to the file by itself: it only
// empties one that holds nothing but zeros.
//
// A batch becomes durable with two writes and two fdatasyncs of a single file: first the
// pages that it changes, then the meta page that says which pages count. An idle store has
// no goroutine and no cache. Removed entries leave free pages, which later entries fill; the
// file never shrinks.
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

// fileName is the store's name in the data directory.
const fileName = "log.bolt"

// appendRoom is the room that raft's usual batch may need, with the branch pages above it.
const appendRoom = 4 << 20

// lockTimeout bounds the wait for bbolt's own file lock; bbolt's default is to wait for
// ever. The claim on the directory keeps other instances away, so only a stray tool can
// hold the lock.
const lockTimeout = time.Second

// Open opens or creates log.bolt in dir. It reads every page in use once first, so that a
// torn or damaged file is an error that names it, and not a panic in the middle of a
// term; that takes about a millisecond for each MB in use.
func Open(dir string, logger *slog.Logger) (logstore.Store, error) {
	path := filepath.Join(dir, fileName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	begin := time.Now()
	if _, err := verify(path, slog.New(slog.DiscardHandler)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := emptyBlank(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	inner, err := openFile(path, false)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// bbolt does not sync the directory, and a file that loses its name is lost.
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
			// Rebuild the list of free pages at open instead of writing it with every
			// transaction: a log that shrank has many free pages, and each append would
			// write all of them. The map type finds a run of free pages at once; the
			// array type searches.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
		// Encode AppendedAt as msgpack's own timestamp, which other tools can read, rather
		// than as Go's binary form of a time. The decoder reads both.
		MsgpackUseNewTimeFormat: true,
	})
}

// store makes a raft-boltdb store a logstore.Store.
type store struct {
	logstore.Calls
	inner *raftboltdb.BoltStore
	dir   string

	writeMu     sync.Mutex // serializes writers
	metaInDoubt bool       // the last write has failed; guarded by writeMu
}

// writing is During for one writer at a time.
//
// If bbolt fails to sync a meta page, which says which pages count, it uses that page all
// the same, and treats the pages that it no longer names as free. But the disk may still
// have the previous meta page, and another sync may write nothing; so the next write could
// overwrite pages that the disk still refers to. Therefore an empty transaction comes first
// after a failure: it writes a meta page again, and no other page.
func (s *store) writing(call func() error) error {
	return s.During(func() error {
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
	err = s.During(func() error {
		index, err = s.inner.FirstIndex()
		return err
	})
	return index, err
}

func (s *store) LastIndex() (index uint64, err error) {
	err = s.During(func() error {
		index, err = s.inner.LastIndex()
		return err
	})
	return index, err
}

func (s *store) GetLog(index uint64, log *raft.Log) error {
	return s.During(func() error {
		// The decoder reuses the slices of the log that it is given, which may still be in
		// use by a caller that read an earlier entry into it: give it a fresh one.
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

// Room implements logstore.Roomy. bbolt itself survives a full disk; but once it has tried
// to write, the caller can't be told that nothing was written.
func (s *store) Room() error {
	return s.During(func() error {
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
	err = s.During(func() error {
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

// GetUint64 does not use raft-boltdb's own, which panics on a value that is not 8 bytes
// long.
func (s *store) GetUint64(key []byte) (uint64, error) { return logstore.GetUint64(s, key) }

func (s *store) Close() error { return s.End(s.inner.Close) }
