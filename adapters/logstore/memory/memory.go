// Package memory keeps a raft log in memory, for tests and trials. It never touches
// a disk, so nothing outlives Close: an instance that restarts with it has lost its
// vote and its log, and must not come back as a voter.
package memory

import (
	"bytes"
	"cmp"
	"log/slog"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Open returns an empty store. It ignores the directory and the logger.
func Open(string, *slog.Logger) (logstore.Store, error) {
	return &store{stable: make(map[string][]byte)}, nil
}

// store keeps the entries sorted by index. It copies everything on the way in and out,
// as a disk would, so that a caller that reuses its slices behaves alike with every
// backend.
type store struct {
	mu     sync.RWMutex
	logs   []raft.Log
	stable map[string][]byte
	closed bool
}

func (s *store) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return 0, logstore.ErrClosed
	case len(s.logs) == 0:
		return 0, nil
	}
	return s.logs[0].Index, nil
}

func (s *store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return 0, logstore.ErrClosed
	case len(s.logs) == 0:
		return 0, nil
	}
	return s.logs[len(s.logs)-1].Index, nil
}

func (s *store) GetLog(index uint64, log *raft.Log) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return logstore.ErrClosed
	}
	at, found := s.find(index)
	if !found {
		return raft.ErrLogNotFound
	}
	*log = copied(s.logs[at])
	return nil
}

func (s *store) StoreLog(log *raft.Log) error {
	return s.StoreLogs([]*raft.Log{log})
}

func (s *store) StoreLogs(logs []*raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return logstore.ErrClosed
	}
	for _, log := range logs {
		at, found := s.find(log.Index)
		if found {
			s.logs[at] = copied(*log)
			continue
		}
		s.logs = slices.Insert(s.logs, at, copied(*log))
	}
	return nil
}

func (s *store) DeleteRange(min, max uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return logstore.ErrClosed
	}
	from, _ := s.find(min)
	to, found := s.find(max)
	if found {
		to++
	}
	if from < to {
		s.logs = slices.Delete(s.logs, from, to)
	}
	return nil
}

// find returns the position of index in the log and true, or the position where it would
// be inserted and false.
func (s *store) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(s.logs, index, func(log raft.Log, index uint64) int { return cmp.Compare(log.Index, index) })
}

func (s *store) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return logstore.ErrClosed
	}
	s.stable[string(key)] = bytes.Clone(value)
	return nil
}

func (s *store) Get(key []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, logstore.ErrClosed
	}
	value, found := s.stable[string(key)]
	if !found {
		return nil, logstore.ErrKeyNotFound
	}
	return bytes.Clone(value), nil
}

func (s *store) SetUint64(key []byte, value uint64) error { return logstore.SetUint64(s, key, value) }

func (s *store) GetUint64(key []byte) (uint64, error) { return logstore.GetUint64(s, key) }

func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.logs, s.stable = nil, nil
	return nil
}

func copied(log raft.Log) raft.Log {
	log.Data = bytes.Clone(log.Data)
	log.Extensions = bytes.Clone(log.Extensions)
	// Round drops the monotonic clock reading, which would not survive a disk either.
	log.AppendedAt = log.AppendedAt.Round(0).UTC()
	return log
}
