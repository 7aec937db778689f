// Package logstoretest tests the contract of logstore.Store. Every backend runs Run in
// its own package. The suite treats all backends alike, and never looks behind the
// interface. For the tests of those who use a store there is one that fails: Faulty.
package logstoretest

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Open opens the store under test in dir and fails the test if it can't. The
// suite closes what it opens.
type Open func(tb testing.TB, dir string) logstore.Store

type suite struct {
	open    Open
	durable bool
}

// Run checks the whole contract of logstore.Store, for a backend that is not volatile: also
// that what was stored survives reopening, and a kill -9. The test binary's TestMain must call
// CrashChild first.
func Run(t *testing.T, open Open) { (&suite{open: open, durable: true}).run(t) }

// RunVolatile is Run for a backend that keeps nothing when it is closed.
func RunVolatile(t *testing.T, open Open) { (&suite{open: open}).run(t) }

func (s *suite) run(t *testing.T) {
	t.Run("log", s.logRules)
	t.Run("entries keep every field", s.entriesKeepEveryField)
	t.Run("large entries and batches", s.largeBatches)
	t.Run("stable state", s.stableRules)
	t.Run("raft recognizes a fresh store", s.freshForRaft)
	t.Run("readers beside a writer", s.readersBesideWriter)
	t.Run("writers beside one another", s.writersBesideOneAnother)
	t.Run("entries in any order", s.disorder)
	t.Run("closing", s.closing)
	t.Run("model", s.model)
	if s.durable {
		t.Run("reopening", s.reopening)
		t.Run("after a kill", s.afterKill)
	}
}

// fresh opens a store in an empty directory and closes it when the test ends.
func (s *suite) fresh(t *testing.T) logstore.Store {
	t.Helper()
	store := s.open(t, t.TempDir())
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return store
}
