package logstoretest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// writersBesideOneAnother has several writers store entries and values at the same time.
func (s *suite) writersBesideOneAnother(t *testing.T) {
	const (
		writers = 4
		rounds  = 25
		size    = 100
	)
	store := s.fresh(t)
	key := func(writer uint64) []byte { return fmt.Appendf(nil, "writer %d", writer) }
	var group sync.WaitGroup
	for writer := range uint64(writers) {
		group.Go(func() {
			for round := range uint64(rounds) {
				if err := writeRound(store, 1+writer+round*writers, size, key(writer)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	wantExactly(t, store, 1, writers*rounds, size)
	for writer := range uint64(writers) {
		if last, err := store.GetUint64(key(writer)); err != nil || last != 1+writer+(rounds-1)*writers {
			t.Errorf("the last value of writer %d = %d, %v", writer, last, err)
		}
	}
}

// disorder has batches that are not in the order of their indexes, and an entry that is
// stored again in slices that the caller goes on to use.
func (s *suite) disorder(t *testing.T) {
	const size = 100
	store := s.fresh(t)
	mustStore(t, store, entry(12, size), entry(10, size), entry(11, size))
	wantExactly(t, store, 10, 12, size)
	mustStore(t, store, entry(8, size), entry(9, size), entry(7, size))
	wantExactly(t, store, 7, 12, size)
	again := entry(9, size)
	mustStore(t, store, again)
	clear(again.Data)
	clear(again.Extensions)
	wantExactly(t, store, 7, 12, size)
}

// writeRound stores one entry, and its index as a value.
func writeRound(store logstore.Store, index uint64, size int, key []byte) error {
	if err := store.StoreLog(entry(index, size)); err != nil {
		return err
	}
	return store.SetUint64(key, index)
}
