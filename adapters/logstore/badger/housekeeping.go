package badger

import (
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

const (
	// smallTables is how much disk the tables may take without anybody looking
	// what is in them: badger itself keeps a short log below this.
	smallTables = 16 << 20

	// unknownRemoved stands for what was removed before the store was opened.
	unknownRemoved = 1 << 40

	// discardRatio is the share of a value log file that must be garbage.
	discardRatio = 0.5
)

// fillerKey is rewritten to fill a memtable; nobody reads it.
var fillerKey = []byte{'f'}

// housekeep gives back the space of removed entries until Close stops it.
//
// badger merges tables when they pile up, which the marks of removal alone never
// do: after a log that grew large was cut to a short one, all of it would stay on
// disk until as much again was written.
func (s *store) housekeep(interval time.Duration) {
	defer close(s.stopped)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for flushed := false; ; {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		var err error
		switch {
		case flushed:
			flushed, err = false, s.compact()
		case s.mostlyRemoved():
			// badger writes the full memtable to a table in its own time; the next
			// round merges it.
			s.removed.Store(0)
			flushed, err = true, s.flushMarks()
		}
		if err != nil {
			s.logger.Warn("give back the space of removed log entries", "error", err)
		}
	}
}

// mostlyRemoved reports whether a compaction would free more than it must rewrite.
func (s *store) mostlyRemoved() bool {
	var keys, bytes int64
	for _, table := range s.db.Tables() {
		keys += int64(table.KeyCount)
		bytes += int64(table.OnDiskSize)
	}
	var live int64
	if first := s.first.Load(); first != 0 {
		live = int64(s.last.Load() - first + 1)
	}
	// What was removed since the last time keeps a log whose entries have many
	// parts, or none, from being rewritten again and again.
	return bytes > smallTables && keys > 2*live && 4*s.removed.Load() > keys
}

// flushMarks gets the marks of removal out of the memtable and into a table, where
// a compaction can apply them. badger has no way to ask for that: a memtable is
// written when it is full, so it is filled.
func (s *store) flushMarks() error {
	filler := make([]byte, partSize)
	for written := 0; written <= memtableSize; written += len(filler) {
		select {
		case <-s.stop:
			return nil
		default:
		}
		if err := s.put(fillerKey, filler); err != nil {
			return err
		}
	}
	// The first write to the next memtable, and a small last version.
	return s.put(fillerKey, nil)
}

// put takes its turn among the writers without asking whether the store is
// closed: Close waits for this goroutine.
func (s *store) put(key, value []byte) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := logstore.CheckRoom(s.path, 0, writeRoom); err != nil {
		return err
	}
	return s.db.Update(func(tx *badger.Txn) error { return tx.Set(key, value) })
}

// compact merges all tables into one level, where removed entries are dropped.
// Writes go on meanwhile.
func (s *store) compact() error {
	if err := s.db.Flatten(1); err != nil {
		return err
	}
	// The value log is empty by design (see optionsFor), and then this costs nothing; it
	// is here so that a change of those numbers can't fill a disk.
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
