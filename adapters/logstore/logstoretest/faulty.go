package logstoretest

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Faulty is a Store whose writes hang or fail when a test wants it; until then, it is like
// the Store inside. Safe for concurrent use.
type Faulty struct {
	logstore.Store

	mu    sync.Mutex
	gate  chan struct{} // not nil: writes wait until it is closed
	fault error         // of every write
	torn  error         // of every append, and removal
	full  error         // of Room
}

// NewFaulty returns an empty store of a backend, without a fault.
func NewFaulty(tb testing.TB, open logstore.Opener) *Faulty {
	tb.Helper()
	inner, err := open(tb.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	return &Faulty{Store: inner}
}

// Hang makes writes wait until release is called.
func (s *Faulty) Hang() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(gate)
		s.gate = nil
	})
}

// Fail makes every write fail, until it is called with nil.
func (s *Faulty) Fail(with error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = with
}

// FailAppends makes appends and removals fail, but no write of the term or the vote, until
// it is called with nil.
func (s *Faulty) FailAppends(with error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.torn = with
}

// Fill makes Room fail, and nothing else, until it is called with nil.
func (s *Faulty) Fill(with error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = with
}

func (s *Faulty) appends() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.torn
}

func (s *Faulty) write(do func() error) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		return fault
	}
	return do()
}

// Room implements logstore.Roomy.
func (s *Faulty) Room() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

// StoreLogs implements raft.LogStore.
func (s *Faulty) StoreLogs(logs []*raft.Log) error {
	if err := s.appends(); err != nil {
		return err
	}
	return s.write(func() error { return s.Store.StoreLogs(logs) })
}

// DeleteRange implements raft.LogStore. It never hangs.
func (s *Faulty) DeleteRange(from, to uint64) error {
	if err := s.appends(); err != nil {
		return err
	}
	return s.Store.DeleteRange(from, to)
}

// Set implements raft.StableStore.
func (s *Faulty) Set(key, value []byte) error {
	return s.write(func() error { return s.Store.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (s *Faulty) SetUint64(key []byte, value uint64) error {
	return s.write(func() error { return s.Store.SetUint64(key, value) })
}
