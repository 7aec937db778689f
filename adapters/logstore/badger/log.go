package badger

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/hashicorp/raft"
)

// deleteBatch is how many keys one transaction of DeleteRange removes, give or
// take the parts of one entry. badger allows some 3000 with this memtable.
const deleteBatch = 2048

func (s *store) GetLog(index uint64, log *raft.Log) error {
	return s.During(func() error {
		if !s.indexes.Load().has(index) {
			return raft.ErrLogNotFound
		}
		err := s.read(index, log)
		if !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		// Either the entry was removed in the meantime, and maybe stored again, or badger
		// can't read it. Nobody writes while writeMu is held, so now these can be told apart.
		s.writeMu.Lock()
		defer s.writeMu.Unlock()
		if !s.indexes.Load().has(index) {
			return raft.ErrLogNotFound
		}
		err = s.read(index, log)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return fmt.Errorf("%w: index %d", errLost, index)
		}
		return err
	})
}

// read reads an entry into log, or returns badger.ErrKeyNotFound.
func (s *store) read(index uint64, log *raft.Log) error {
	// One transaction sees one state, so head and parts belong together even while the
	// entry is being replaced.
	return s.db.View(func(tx *badger.Txn) error {
		found, err := readEntry(tx, index)
		if err != nil {
			return err
		}
		*log = found
		return nil
	})
}

func readEntry(tx *badger.Txn, index uint64) (raft.Log, error) {
	h, err := readHead(tx, index)
	if err != nil {
		return raft.Log{}, err
	}
	payload := h.payload
	for part := uint32(1); h.generation != 0 && uint64(len(payload)) < h.size(); part++ {
		item, err := tx.Get(partKey(index, h.generation, part))
		if err != nil {
			// %v, because ErrKeyNotFound must not be wrapped: a missing part is damage, not
			// a missing entry.
			return raft.Log{}, fmt.Errorf("%w: index %d: part %d: %v", errEntry, index, part, err)
		}
		if err := item.Value(func(more []byte) error {
			payload = append(payload, more...)
			return nil
		}); err != nil {
			return raft.Log{}, fmt.Errorf("%w: index %d: part %d: %w", errEntry, index, part, err)
		}
	}
	return h.entry(payload)
}

// readHead reads the head of an entry, or returns badger.ErrKeyNotFound. The head
// shares no memory with the database.
func readHead(tx *badger.Txn, index uint64) (head, error) {
	item, err := tx.Get(headKey(index))
	if err != nil {
		return head{}, err
	}
	value, err := item.ValueCopy(nil)
	if err != nil {
		return head{}, fmt.Errorf("%w: index %d: %w", errEntry, index, err)
	}
	return decodeHead(index, value)
}

// StoreLogs writes the entries in as few transactions as possible, one after the
// other, so that a crash leaves a prefix of the batch.
func (s *store) StoreLogs(logs []*raft.Log) error {
	return s.writing(func() (err error) {
		batch := &batch{store: s, tx: s.db.NewTransaction(true)}
		defer func() { batch.tx.Discard() }()
		for _, log := range logs {
			if err := batch.add(log); err != nil {
				return fmt.Errorf("store log entry %d: %w", log.Index, err)
			}
		}
		return batch.commit()
	})
}

// batch writes a sequence of transactions. It has the transaction that is being filled,
// and the indexes of the heads so far, in the order in which they were added.
type batch struct {
	store *store
	tx    *badger.Txn
	heads []indexRange
}

func (b *batch) add(log *raft.Log) error {
	payload := payloadOf(log)
	begin := payload[:min(len(payload), partSize)]
	rest := payload[len(begin):]
	var generation uint32
	if len(rest) > 0 {
		var err error
		if generation, err = b.nextGeneration(log.Index); err != nil {
			return err
		}
	}
	for part := uint32(1); len(rest) > 0; part++ {
		size := min(len(rest), partSize)
		if err := b.set(partKey(log.Index, generation, part), rest[:size]); err != nil {
			return err
		}
		rest = rest[size:]
	}
	if err := b.set(headKey(log.Index), encodeHead(log, generation, begin)); err != nil {
		return err
	}
	b.heads = appended(b.heads, log.Index)
	return nil
}

// nextGeneration returns a generation that the entry now stored under index does not
// use: the parts of that entry must stay until the new head replaces its head.
func (b *batch) nextGeneration(index uint64) (uint32, error) {
	old, err := readHead(b.tx, index)
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		return 1, nil
	case err != nil:
		return 0, err
	case old.generation == math.MaxUint32:
		return 1, nil
	}
	return old.generation + 1, nil
}

// set adds one value, in a new transaction if the current one is full.
func (b *batch) set(key, value []byte) error {
	err := b.tx.Set(key, value)
	if !errors.Is(err, badger.ErrTxnTooBig) {
		return err
	}
	if err := b.commit(); err != nil {
		return err
	}
	b.tx = b.store.db.NewTransaction(true)
	return b.tx.Set(key, value)
}

// commit makes the transaction durable, and then adds its heads to the indexes of the log.
func (b *batch) commit() error {
	if err := b.tx.Commit(); err != nil {
		return err
	}
	stored := *b.store.indexes.Load()
	for _, heads := range b.heads {
		stored = stored.with(heads)
	}
	b.store.indexes.Store(&stored)
	return nil
}

// DeleteRange works through the range in transactions of bounded size, in the
// direction that leaves no hole if it stops in the middle. It returns errLost if badger
// does not find an entry that is to be removed: the entry would be back after the next start.
func (s *store) DeleteRange(min, max uint64) error {
	return s.writing(func() error {
		stored := *s.indexes.Load()
		if stored.count(min, max) == 0 {
			return nil
		}
		fromEnd := max >= stored.last() && min > stored.first()
		// Readers must not find the entries from now on, although the removal is not durable
		// yet: GetLog would wait for writeMu.
		left := stored.without(min, max)
		s.indexes.Store(&left)
		for done := false; !done; {
			var keys [][]byte
			keys, done = s.keysToDelete(min, max, fromEnd)
			if err := s.deleteKeys(keys); err != nil {
				// badger may have removed some of the entries.
				for _, found := range s.findIndexes() {
					left = left.with(found)
				}
				s.indexes.Store(&left)
				return fmt.Errorf("delete log entries %d to %d: %w", min, max, err)
			}
			for _, removed := range headsIn(keys) {
				stored = stored.without(removed.first, removed.last)
			}
		}
		if lost := stored.count(min, max); lost > 0 {
			s.indexes.Store(&stored)
			return fmt.Errorf("%w: %d of those with index %d to %d", errLost, lost, min, max)
		}
		return nil
	})
}

// headsIn returns the indexes of the heads among keys, which it sorts.
func headsIn(keys [][]byte) (heads []indexRange) {
	slices.SortFunc(keys, bytes.Compare)
	for _, key := range keys {
		if isHead(key) {
			heads = appended(heads, indexOf(key))
		}
	}
	return heads
}

// keysToDelete collects about deleteBatch keys from one end of the range, and reports
// whether these are the last ones. It never splits the keys of one entry: a head
// without its parts would be damage.
func (s *store) keysToDelete(min, max uint64, fromEnd bool) (keys [][]byte, done bool) {
	tx := s.db.NewTransaction(false)
	defer tx.Discard()
	cursor := tx.NewIterator(keysOnly(fromEnd))
	defer cursor.Close()
	seek := headKey(min)
	if fromEnd {
		seek = partKey(max, math.MaxUint32, math.MaxUint32)
	}
	var index uint64
	for cursor.Seek(seek); cursor.Valid(); cursor.Next() {
		key := cursor.Item().KeyCopy(nil)
		at := indexOf(key)
		if at < min || at > max {
			return keys, true
		}
		if len(keys) >= deleteBatch && at != index {
			return keys, false
		}
		keys, index = append(keys, key), at
	}
	return keys, true
}

func (s *store) deleteKeys(keys [][]byte) error {
	err := s.db.Update(func(tx *badger.Txn) error {
		for _, key := range keys {
			if err := tx.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.removed.Add(int64(len(keys)))
	}
	return err
}

// findIndexes finds the indexes of all entries in the tree that badger can read.
func (s *store) findIndexes() indexes {
	tx := s.db.NewTransaction(false)
	defer tx.Discard()
	cursor := tx.NewIterator(keysOnly(false))
	defer cursor.Close()
	var stored indexes
	for cursor.Rewind(); cursor.Valid(); cursor.Next() {
		if key := cursor.Item().Key(); isHead(key) {
			stored = appended(stored, indexOf(key))
		}
	}
	return stored
}

func keysOnly(backwards bool) badger.IteratorOptions {
	return badger.IteratorOptions{Prefix: []byte{logPrefix}, Reverse: backwards}
}
