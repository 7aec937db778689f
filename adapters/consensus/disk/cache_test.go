package disk

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// countingReads counts the entries that are read from a store.
type countingReads struct {
	*logstoretest.Faulty
	read int
}

func (c *countingReads) GetLog(index uint64, log *raft.Log) error {
	c.read++
	return c.Faulty.GetLog(index, log)
}

func TestTheLatestEntriesAreReadFromMemory(t *testing.T) {
	long := bytes.Repeat([]byte("x"), MaxCachedEntry+1)
	tests := map[string]struct {
		do   func(t *testing.T, l *entryCache)
		read []uint64 // indexes of the entries that are read from the store
	}{
		"all entries but a too long one": {do: func(*testing.T, *entryCache) {}, read: []uint64{4}},
		"one that was retried": {
			do: func(_ *testing.T, l *entryCache) {
				l.storeUntilDone([]*raft.Log{{Index: 7, Term: 1, Type: raft.LogNoop}})
			},
			read: []uint64{4},
		},
		"after the beginning was removed": {
			do:   func(t *testing.T, l *entryCache) { remove(t, l, 1, 2) },
			read: []uint64{4},
		},
		"after the end was replaced": {
			do: func(t *testing.T, l *entryCache) {
				remove(t, l, 4, 6)
				store(t, l, &raft.Log{Index: 4, Term: 2, Data: []byte("short now")})
			},
		},
		"entries that a later one overwrote in the cache": {
			do: func(t *testing.T, l *entryCache) {
				for index := uint64(7); index <= cachedEntries+2; index++ {
					store(t, l, &raft.Log{Index: index, Term: 1})
				}
			},
			read: []uint64{1, 2, 4},
		},
		"entries that just fill the cache": {
			do: func(t *testing.T, l *entryCache) {
				remove(t, l, 1, 6)
				storeFull(t, l, 1)
			},
		},
		"entries before those that fill the cache": {
			do:   func(t *testing.T, l *entryCache) { storeFull(t, l, 7) },
			read: []uint64{1, 2, 3, 4, 5, 6},
		},
		"entries that exceed the cache by a byte": {
			do: func(t *testing.T, l *entryCache) {
				remove(t, l, 1, 6)
				storeFull(t, l, 1)
				store(t, l, &raft.Log{Index: 9, Term: 1, Data: []byte("x")})
			},
			read: []uint64{1},
		},
		"entries that fit since others were removed or replaced": {
			do: func(t *testing.T, l *entryCache) {
				storeFull(t, l, 7)
				remove(t, l, 7, 14)
				for index := uint64(7); index < 7+2*cachedEntries; index++ {
					store(t, l, &raft.Log{Index: index, Term: 2, Data: make([]byte, cachedBytes/cachedEntries)})
				}
				remove(t, l, 1, 6+cachedEntries)
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchDisk(t)
				counted := &countingReads{Faulty: w.bad}
				w.backend = counted
				l := &entryCache{watch: w.watch}
				for index := uint64(1); index <= 6; index++ {
					entry := &raft.Log{Index: index, Term: 1, Data: []byte{byte(index)}}
					if index == 4 {
						entry.Data = long
					}
					store(t, l, entry)
				}
				test.do(t, l)
				wantReadFromStore(t, l, counted, test.read)
				w.close(t)
			})
		})
	}
}

// storeFull stores 8 entries that fill the cache, beginning with index from.
func storeFull(t *testing.T, l *entryCache, from uint64) {
	t.Helper()
	for n := range uint64(cachedBytes / MaxCachedEntry) {
		store(t, l, &raft.Log{Index: from + n, Term: 2, Data: bytes.Repeat([]byte("x"), MaxCachedEntry)})
	}
}

func wantReadFromStore(t *testing.T, l *entryCache, c *countingReads, want []uint64) {
	t.Helper()
	first, _ := l.FirstIndex()
	last, err := l.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	var read []uint64
	for index := first; index <= last; index++ {
		var cached, stored raft.Log
		before := c.read
		if err := l.GetLog(index, &cached); err != nil {
			t.Fatal(err)
		}
		if c.read > before {
			read = append(read, index)
		}
		if err := c.GetLog(index, &stored); err != nil || stored.Term != cached.Term || !bytes.Equal(stored.Data, cached.Data) {
			t.Errorf("entry %d = %v, want %v as in the store (%v)", index, &cached, &stored, err)
		}
	}
	if !slices.Equal(read, want) {
		t.Errorf("entries read from the store = %v, want %v", read, want)
	}
}

func store(t *testing.T, l *entryCache, entry *raft.Log) {
	t.Helper()
	entry.Type = raft.LogNoop // which needs no checksum
	if err := l.StoreLog(entry); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, l *entryCache, from, to uint64) {
	t.Helper()
	if err := l.DeleteRange(from, to); err != nil {
		t.Fatal(err)
	}
	for index := from; index <= to; index++ {
		var entry raft.Log
		if err := l.GetLog(index, &entry); err != raft.ErrLogNotFound {
			t.Errorf("GetLog(%d) of a removed entry = %v, %v, want ErrLogNotFound", index, &entry, err)
		}
	}
}
