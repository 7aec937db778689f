package logstoretest

import (
	"bytes"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

func (s *suite) logRules(t *testing.T) {
	const size = 40
	tests := map[string]func(t *testing.T, store logstore.Store){
		"an empty log has the bounds 0 and 0 and no entry": func(t *testing.T, store logstore.Store) {
			wantBounds(t, store, 0, 0)
			wantNoEntry(t, store, 0)
			wantNoEntry(t, store, 1)
		},
		"storing nothing is no error": func(t *testing.T, store logstore.Store) {
			mustStore(t, store)
			wantBounds(t, store, 0, 0)
		},
		"a single entry is first and last": func(t *testing.T, store logstore.Store) {
			if err := store.StoreLog(entry(1, size)); err != nil {
				t.Fatal(err)
			}
			wantExactly(t, store, 1, 1, size)
		},
		"batches follow one another": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 5, size)...)
			mustStore(t, store, entries(6, 300, size)...)
			wantExactly(t, store, 1, 300, size)
		},
		"a log may begin anywhere": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1<<40, 1<<40+9, size)...)
			wantExactly(t, store, 1<<40, 1<<40+9, size)
		},
		"the order of indexes is that of numbers": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(250, 260, size)...)
			mustStore(t, store, entries(65530, 65540, size)...)
			wantBounds(t, store, 250, 65540)
			mustDelete(t, store, 250, 256)
			wantBounds(t, store, 257, 65540)
		},
		"a gap stays a gap": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 3, size)...)
			mustStore(t, store, entries(100, 103, size)...)
			wantBounds(t, store, 1, 103)
			wantEntry(t, store, entry(3, size))
			wantNoEntry(t, store, 4)
			wantNoEntry(t, store, 99)
			wantEntry(t, store, entry(100, size))
			mustDelete(t, store, 1, 50)
			wantExactly(t, store, 100, 103, size)
		},
		"entries before the first move it": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(10, 12, size)...)
			mustStore(t, store, entries(7, 9, size)...)
			wantExactly(t, store, 7, 12, size)
		},
		"an index that is stored again is overwritten": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 9, size)...)
			mustStore(t, store, entries(4, 6, 3*size)...)
			wantBounds(t, store, 1, 9)
			wantEntry(t, store, entry(3, size))
			for index := uint64(4); index <= 6; index++ {
				wantEntry(t, store, entry(index, 3*size))
			}
			wantEntry(t, store, entry(7, size))
		},
		"both bounds of a deletion are deleted, and nothing beside them": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 10, size)...)
			mustDelete(t, store, 4, 6)
			wantEntry(t, store, entry(3, size))
			wantNoEntry(t, store, 4)
			wantNoEntry(t, store, 5)
			wantNoEntry(t, store, 6)
			wantEntry(t, store, entry(7, size))
			wantBounds(t, store, 1, 10)
		},
		"one entry can be deleted": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 3, size)...)
			mustDelete(t, store, 2, 2)
			wantEntry(t, store, entry(1, size))
			wantNoEntry(t, store, 2)
			wantEntry(t, store, entry(3, size))
		},
		"deleting the beginning moves the first index": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 10, size)...)
			mustDelete(t, store, 1, 4)
			wantExactly(t, store, 5, 10, size)
		},
		"deleting the end moves the last index": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 10, size)...)
			mustDelete(t, store, 8, 10)
			wantExactly(t, store, 1, 7, size)
		},
		"deleting all leaves an empty log, which can begin elsewhere": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 10, size)...)
			mustDelete(t, store, 1, 10)
			wantBounds(t, store, 0, 0)
			wantNoEntry(t, store, 1)
			wantNoEntry(t, store, 10)
			mustStore(t, store, entries(5000, 5003, size)...)
			wantExactly(t, store, 5000, 5003, size)
		},
		"a deletion may reach beyond the log": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(10, 20, size)...)
			mustDelete(t, store, 0, 12)
			wantExactly(t, store, 13, 20, size)
			mustDelete(t, store, 18, math.MaxUint64)
			wantExactly(t, store, 13, 17, size)
			mustDelete(t, store, 0, math.MaxUint64)
			wantBounds(t, store, 0, 0)
		},
		"a deletion that meets nothing is no error": func(t *testing.T, store logstore.Store) {
			mustDelete(t, store, 1, 10)
			mustStore(t, store, entries(10, 12, size)...)
			mustDelete(t, store, 1, 9)
			mustDelete(t, store, 13, 20)
			mustDelete(t, store, 12, 10)
			wantExactly(t, store, 10, 12, size)
		},
		"deleting up to a gap finds the entries beyond it": func(t *testing.T, store logstore.Store) {
			mustStore(t, store, entries(1, 3, size)...)
			mustStore(t, store, entries(50, 53, size)...)
			mustDelete(t, store, 50, 53)
			wantExactly(t, store, 1, 3, size)
		},
		"a hundred thousand entries are deleted at once": func(t *testing.T, store logstore.Store) {
			const count = 100_000
			for from := uint64(1); from <= count+100; from += 5000 {
				mustStore(t, store, entries(from, min(from+4999, count+100), 10)...)
			}
			mustDelete(t, store, 1, count)
			wantExactly(t, store, count+1, count+100, 10)
			mustDelete(t, store, count+50, count+100)
			wantExactly(t, store, count+1, count+49, 10)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, s.fresh(t)) })
	}
}

func (s *suite) entriesKeepEveryField(t *testing.T) {
	tests := map[string]raft.Log{
		"every type of entry":                   {Type: raft.LogConfiguration, Data: []byte("configuration")},
		"an unknown type":                       {Type: 200},
		"the highest term":                      {Term: math.MaxUint64},
		"no data":                               {Type: raft.LogNoop, Term: 3},
		"data without extensions":               {Data: []byte("data")},
		"extensions without data":               {Extensions: []byte("extensions")},
		"data and extensions":                   {Data: []byte("data"), Extensions: []byte("extensions")},
		"bytes that are not text":               {Data: []byte{0, 0xff, 0xc0, 0x80, 0}, Extensions: []byte{0xff, 0}},
		"an instant to the nanosecond":          {AppendedAt: time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.UTC)},
		"an instant of this clock":              {AppendedAt: time.Now()},
		"an instant in another zone":            {AppendedAt: time.Date(2026, 2, 3, 4, 5, 6, 1, time.FixedZone("east", 5*3600+1800))},
		"an instant before the epoch":           {AppendedAt: time.Date(1901, 1, 1, 0, 0, 0, 999_999_999, time.UTC)},
		"an instant after 32 bits ran out":      {AppendedAt: time.Date(2500, 1, 1, 0, 0, 0, 1, time.UTC)},
		"the epoch, which is not the zero time": {AppendedAt: time.Unix(0, 0)},
	}
	store := s.fresh(t)
	index := uint64(0)
	for name, log := range tests {
		index++
		log.Index = index
		t.Run(name, func(t *testing.T) {
			mustStore(t, store, &log)
			wantEntry(t, store, &log)
		})
	}
	t.Run("the zero time stays zero", func(t *testing.T) {
		mustStore(t, store, &raft.Log{Index: 1000, Data: []byte("x")})
		var got raft.Log
		if err := store.GetLog(1000, &got); err != nil || !got.AppendedAt.IsZero() {
			t.Fatalf("AppendedAt = %v, %v, want the zero time", got.AppendedAt, err)
		}
	})
	t.Run("the store shares no memory with the caller", func(t *testing.T) {
		data := []byte("original")
		mustStore(t, store, &raft.Log{Index: 1001, Data: data, Extensions: data})
		copy(data, "scribble")
		var first, second raft.Log
		if err := store.GetLog(1001, &first); err != nil {
			t.Fatal(err)
		}
		kept := first.Data
		copy(first.Extensions, "scribble")
		if err := store.GetLog(1001, &second); err != nil {
			t.Fatal(err)
		}
		if string(kept) != "original" || string(second.Data) != "original" || string(second.Extensions) != "original" {
			t.Fatalf("bytes read = %q, %q and %q, want them as they were stored", kept, second.Data, second.Extensions)
		}
	})
	t.Run("bytes that were read stay when the log is read into again", func(t *testing.T) {
		mustStore(t, store, &raft.Log{Index: 1002, Data: []byte("aaaaaaaa")}, &raft.Log{Index: 1003, Data: []byte("bbbbbbbb")})
		var log raft.Log
		if err := store.GetLog(1002, &log); err != nil {
			t.Fatal(err)
		}
		kept := log.Data
		if err := store.GetLog(1003, &log); err != nil {
			t.Fatal(err)
		}
		if string(kept) != "aaaaaaaa" {
			t.Fatalf("bytes of the first entry = %q, want them unchanged", kept)
		}
	})
}

func (s *suite) largeBatches(t *testing.T) {
	t.Run("one batch of 64 entries of 256 KiB", func(t *testing.T) {
		store := s.fresh(t)
		mustStore(t, store, entries(1, 64, 256<<10)...)
		wantExactly(t, store, 1, 64, 256<<10)
	})
	t.Run("one batch of 30 000 small entries", func(t *testing.T) {
		store := s.fresh(t)
		mustStore(t, store, entries(1, 30_000, 8)...)
		wantExactly(t, store, 1, 30_000, 8)
	})
	t.Run("entries of several MiB beside small ones", func(t *testing.T) {
		store := s.fresh(t)
		sizes := []int{10, 1 << 20, 0, 512 << 10, 512<<10 + 1, 5<<20 + 3, 10}
		for at, size := range sizes {
			mustStore(t, store, entry(uint64(at+1), size))
		}
		for at, size := range sizes {
			wantEntry(t, store, entry(uint64(at+1), size))
		}
		wantBounds(t, store, 1, uint64(len(sizes)))
	})
	t.Run("a large entry is overwritten by a larger, a smaller and a small one", func(t *testing.T) {
		store := s.fresh(t)
		for _, size := range []int{2 << 20, 3 << 20, 1<<20 + 7, 100, 2 << 20} {
			mustStore(t, store, entries(1, 3, size)...)
			wantExactly(t, store, 1, 3, size)
		}
	})
	t.Run("large entries are deleted from both ends", func(t *testing.T) {
		store := s.fresh(t)
		mustStore(t, store, entries(1, 9, 2<<20)...)
		mustDelete(t, store, 1, 3)
		wantExactly(t, store, 4, 9, 2<<20)
		mustDelete(t, store, 7, 9)
		wantExactly(t, store, 4, 6, 2<<20)
		mustStore(t, store, entries(7, 8, 20)...)
		wantEntry(t, store, entry(7, 20))
		wantBounds(t, store, 4, 8)
	})
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

func (s *suite) stableRules(t *testing.T) {
	store := s.fresh(t)
	key := []byte("key")
	t.Run("a key that was never set is exactly ErrKeyNotFound, with its text", func(t *testing.T) {
		_, err := store.Get(key)
		_, errNumber := store.GetUint64(key)
		for _, err := range []error{err, errNumber} {
			if err != logstore.ErrKeyNotFound || err.Error() != "not found" { //nolint:errorlint // the value itself is the contract
				t.Fatalf("error = %v, want ErrKeyNotFound itself", err)
			}
		}
	})
	t.Run("a value is replaced by the next one", func(t *testing.T) {
		for _, value := range []string{"one", "a longer one", "2", ""} {
			if err := store.Set(key, []byte(value)); err != nil {
				t.Fatal(err)
			}
			if got, err := store.Get(key); err != nil || string(got) != value {
				t.Fatalf("Get = %q, %v, want %q", got, err, value)
			}
		}
	})
	t.Run("numbers come back", func(t *testing.T) {
		for _, value := range []uint64{0, 1, 255, 256, math.MaxUint64} {
			if err := store.SetUint64([]byte("number"), value); err != nil {
				t.Fatal(err)
			}
			if got, err := store.GetUint64([]byte("number")); err != nil || got != value {
				t.Fatalf("GetUint64 = %d, %v, want %d", got, err, value)
			}
		}
	})
	t.Run("GetUint64 refuses a value that is no number", func(t *testing.T) {
		if err := store.Set(key, []byte("abc")); err != nil {
			t.Fatal(err)
		}
		if got, err := store.GetUint64(key); err == nil || errors.Is(err, logstore.ErrKeyNotFound) {
			t.Fatalf("GetUint64 = %d, %v, want an error about the value", got, err)
		}
	})
	t.Run("values share no memory with the caller", func(t *testing.T) {
		value := []byte("original")
		if err := store.Set(key, value); err != nil {
			t.Fatal(err)
		}
		copy(value, "scribble")
		got, err := store.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		copy(got, "scribble")
		if got, err := store.Get(key); err != nil || !bytes.Equal(got, []byte("original")) {
			t.Fatalf("Get = %q, %v, want the value as it was set", got, err)
		}
	})
	t.Run("the keys of the log and of the stable state do not overlap", func(t *testing.T) {
		store := s.fresh(t)
		if err := store.SetUint64([]byte("l\x00\x00\x00\x00\x00\x00\x00\x01"), 7); err != nil {
			t.Fatal(err)
		}
		wantBounds(t, store, 0, 0)
		mustStore(t, store, entries(1, 3, 10)...)
		mustDelete(t, store, 0, math.MaxUint64)
		if got, err := store.GetUint64([]byte("l\x00\x00\x00\x00\x00\x00\x00\x01")); err != nil || got != 7 {
			t.Fatalf("GetUint64 = %d, %v, want 7", got, err)
		}
	})
}

// freshForRaft checks that raft itself recognizes an empty store, and one with a term.
func (s *suite) freshForRaft(t *testing.T) {
	store := s.fresh(t)
	snapshots := raft.NewInmemSnapshotStore()
	has, err := raft.HasExistingState(store, store, snapshots)
	if err != nil || has {
		t.Fatalf("raft.HasExistingState of a fresh store = %v, %v, want false", has, err)
	}
	if err := store.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	has, err = raft.HasExistingState(store, store, snapshots)
	if err != nil || !has {
		t.Fatalf("raft.HasExistingState of a store with a term = %v, %v, want true", has, err)
	}
}

func (s *suite) closing(t *testing.T) {
	store := s.open(t, t.TempDir())
	mustStore(t, store, entries(1, 3, 10)...)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	var log raft.Log
	calls := map[string]func() error{
		"FirstIndex":  func() error { _, err := store.FirstIndex(); return err },
		"LastIndex":   func() error { _, err := store.LastIndex(); return err },
		"GetLog":      func() error { return store.GetLog(1, &log) },
		"StoreLog":    func() error { return store.StoreLog(entry(4, 10)) },
		"StoreLogs":   func() error { return store.StoreLogs(entries(4, 5, 10)) },
		"DeleteRange": func() error { return store.DeleteRange(1, 2) },
		"Set":         func() error { return store.Set([]byte("k"), []byte("v")) },
		"Get":         func() error { _, err := store.Get([]byte("k")); return err },
		"SetUint64":   func() error { return store.SetUint64([]byte("k"), 1) },
		"GetUint64":   func() error { _, err := store.GetUint64([]byte("k")); return err },
	}
	for name, call := range calls {
		t.Run(name+" on a closed store is ErrClosed", func(t *testing.T) {
			if err := call(); !errors.Is(err, logstore.ErrClosed) {
				t.Fatalf("error = %v, want %v", err, logstore.ErrClosed)
			}
		})
	}
}
