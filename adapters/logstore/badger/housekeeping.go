package badger

import (
	"math"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

const (
	// smallTables is the size of all tables up to which housekeeping does nothing:
	// badger itself keeps a short log below this.
	smallTables = 16 << 20

	// unknownRemoved is the initial value of removed: it is not known how many keys
	// were removed before the store was opened, so housekeeping assumes many.
	unknownRemoved = 1 << 40
)

// fillerKey is written again and again to fill a memtable; it is never read.
var fillerKey = []byte{'f'}

// housekeep frees the disk space of removed entries, and writes lost stable values again,
// until Close stops it. The last thing that it does is to look for lost values: the next
// start would not notice that they are lost.
//
// badger merges tables only when they pile up, and tombstones alone never make them
// do so: after a large log was cut to a short one, all of it would stay on disk until
// as much again was written.
func (s *store) housekeep(interval time.Duration) {
	defer close(s.stopped)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for flushed := false; ; {
		stopping := false
		select {
		case <-s.stop:
			stopping = true
		case <-ticker.C:
		}
		if err := s.rewriteLost(); err != nil {
			s.logger.Warn("check that the stable values are stored", "error", err)
		}
		if stopping {
			return
		}
		var err error
		switch {
		case flushed:
			// Merge all tables into one level, where removed entries are dropped. Writes go on
			// meanwhile.
			flushed, err = false, s.db.Flatten(1)
		case s.mostlyRemoved():
			// badger writes the full memtable to a table in the background; the next
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
	live := int64(s.indexes.Load().count(0, math.MaxUint64))
	// The last condition keeps a log whose entries have many parts, or that is empty,
	// from being rewritten again and again.
	return bytes > smallTables && keys > 2*live && 4*s.removed.Load() > keys
}

// flushMarks moves the tombstones from the memtable to a table, where a compaction
// can apply them. badger has no call for that: it flushes a memtable when it is
// full, so flushMarks fills it.
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
	// This write begins the next memtable, and leaves a small last version of the key.
	return s.put(fillerKey, nil)
}

// put writes as one of the writers. It need not check whether the store is closed:
// Close waits for the housekeeping goroutine.
func (s *store) put(key, value []byte) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := logstore.CheckRoom(s.path, 0, writeRoom); err != nil {
		return err
	}
	return s.set(key, value)
}
