package logstoretest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// readersBesideWriter has readers check every entry that they can read while one writer appends
// entries, and removes some from the end and from the beginning.
func (s *suite) readersBesideWriter(t *testing.T) {
	const (
		rounds  = 60
		readers = 4
		size    = 100
	)
	store := s.fresh(t)
	mustStore(t, store, entries(1, 20, size)...)
	stop := make(chan struct{})
	faults := make(chan error, readers)
	var group sync.WaitGroup
	for reader := range readers {
		group.Go(func() {
			for seen := uint64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				first, err := store.FirstIndex()
				if err == nil {
					err = checkEntry(store, first+uint64(reader)*3, size)
				}
				last, lastErr := store.LastIndex()
				err = errors.Join(err, lastErr, checkEntry(store, last, size))
				round, roundErr := store.GetUint64([]byte("round"))
				if roundErr == nil && round < seen {
					err = errors.Join(err, fmt.Errorf("round went back from %d to %d", seen, round))
				}
				seen = round
				if err != nil {
					faults <- err
					return
				}
			}
		})
	}
	last := uint64(20)
	for round := range uint64(rounds) {
		mustStore(t, store, entries(last+1, last+10, size)...)
		last += 10
		mustDelete(t, store, last-2, last)
		last -= 3
		mustDelete(t, store, 1, last-15)
		if err := store.SetUint64([]byte("round"), round); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
	close(faults)
	for err := range faults {
		t.Error(err)
	}
	wantExactly(t, store, last-14, last, size)
}

// checkEntry checks that the entry is either complete or removed.
func checkEntry(store raft.LogStore, index uint64, size int) error {
	var got raft.Log
	err := store.GetLog(index, &got)
	if errors.Is(err, raft.ErrLogNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if how := differs(&got, entry(index, size)); how != "" {
		return fmt.Errorf("entry %d: %s", index, how)
	}
	return nil
}

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

// writeRound stores one entry, and its index as a value.
func writeRound(store logstore.Store, index uint64, size int, key []byte) error {
	if err := store.StoreLog(entry(index, size)); err != nil {
		return err
	}
	return store.SetUint64(key, index)
}
