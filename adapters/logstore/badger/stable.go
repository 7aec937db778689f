package badger

import (
	"bytes"
	"maps"

	"github.com/dgraph-io/badger/v4"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

func (s *store) Set(key, value []byte) error {
	return s.writing(func() error {
		if err := s.set(stableKey(key), value); err != nil {
			return err
		}
		values := maps.Clone(*s.stable.Load())
		values[string(key)] = bytes.Clone(value)
		s.stable.Store(&values)
		return nil
	})
}

func (s *store) Get(key []byte) (value []byte, err error) {
	err = s.During(func() error {
		kept, found := (*s.stable.Load())[string(key)]
		if !found {
			return logstore.ErrKeyNotFound
		}
		value = bytes.Clone(kept)
		return nil
	})
	return value, err
}

func (s *store) SetUint64(key []byte, value uint64) error { return logstore.SetUint64(s, key, value) }

func (s *store) GetUint64(key []byte) (uint64, error) { return logstore.GetUint64(s, key) }

// storedValues reads the stable values from the tree.
func (s *store) storedValues() (map[string][]byte, error) {
	values := map[string][]byte{}
	err := s.db.View(func(tx *badger.Txn) error {
		cursor := tx.NewIterator(badger.IteratorOptions{Prefix: []byte{stablePrefix}})
		defer cursor.Close()
		for cursor.Rewind(); cursor.Valid(); cursor.Next() {
			value, err := cursor.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			values[string(cursor.Item().Key()[1:])] = value
		}
		return nil
	})
	return values, err
}

// rewriteLost compares the stable values with those in the tree, and writes each that differs
// or is missing again. When badger merges tables, it drops a block that it can't read, and all
// that follows in the table: the next start would find no damage, and no vote, or an earlier
// one.
func (s *store) rewriteLost() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	stored, err := s.storedValues()
	if err != nil {
		return err
	}
	for key, value := range *s.stable.Load() {
		if found, is := stored[key]; is && bytes.Equal(found, value) {
			continue
		}
		s.logger.Error("the disk has not kept a stable value: it is written again", "key", key)
		if err := logstore.CheckRoom(s.path, 0, writeRoom); err != nil {
			return err
		}
		if err := s.set(stableKey([]byte(key)), value); err != nil {
			return err
		}
	}
	return nil
}

// set writes one value. The caller holds writeMu, and has checked that there is room.
func (s *store) set(key, value []byte) error {
	return s.db.Update(func(tx *badger.Txn) error { return tx.Set(key, value) })
}
