package badger

import (
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// compactAfter is how many removed keys make a compaction worth its while: half
// of what raft removes after a snapshot with its default threshold.
const compactAfter = 4096

// discardRatio is the share of a value log file that must be garbage.
const discardRatio = 0.5

// housekeep gives back the space of removed entries until Close stops it.
//
// badger compacts by itself only when tables pile up. A log that is short, and
// stays short because raft removes its beginning, would never get there: the
// removed entries and the marks of their removal would lie in the last level for good.
func (s *store) housekeep(interval time.Duration) {
	defer close(s.stopped)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		if s.removed.Load() < compactAfter {
			continue
		}
		s.removed.Store(0)
		if err := s.compact(); err != nil {
			s.logger.Warn("compact log store", "error", err)
		}
	}
}

// compact merges all tables into one level, where removed entries are dropped.
// Writes go on meanwhile.
func (s *store) compact() error {
	if err := s.db.Flatten(1); err != nil {
		return err
	}
	// The value log is empty by design (see tuned), and then this costs nothing;
	// it is here so that a change of those numbers can't fill a disk.
	for {
		select {
		case <-s.stop:
			return nil
		default:
		}
		err := s.db.RunValueLogGC(discardRatio)
		if errors.Is(err, badger.ErrNoRewrite) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
