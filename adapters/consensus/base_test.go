package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

func TestTheEntryThatASnapshotEndsWithCanBeLookedUp(t *testing.T) {
	tests := map[string]struct {
		stored   []uint64 // in term 2
		snapshot uint64   // in term 3
		index    uint64
		term     uint64 // that is found; 0: nothing is
	}{
		"of an empty log":              {snapshot: 7, index: 7, term: 3},
		"before what is stored":        {stored: []uint64{8, 9}, snapshot: 7, index: 7, term: 3},
		"behind what was left":         {stored: []uint64{3, 8}, snapshot: 7, index: 7, term: 3},
		"but not what is stored":       {stored: []uint64{6, 7, 8}, snapshot: 7, index: 7, term: 2},
		"nor another one":              {stored: []uint64{8}, snapshot: 7, index: 6},
		"nor what could be sent":       {stored: []uint64{6}, snapshot: 7, index: 7},
		"nor the first, that could be": {snapshot: 1, index: 1},
		"nor without a snapshot":       {stored: []uint64{8}, index: 7},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open("", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, index := range test.stored {
				if err := store.StoreLog(&raft.Log{Index: index, Term: 2}); err != nil {
					t.Fatal(err)
				}
			}
			kept := raft.NewInmemSnapshotStore()
			for when, open := range map[string]func() *baseLog{
				"made now": func() *baseLog {
					log := openBase(t, store, kept)
					if test.snapshot > 0 {
						makeSnapshot(t, kept, log, test.snapshot)
					}
					return log
				},
				"found at the start": func() *baseLog { return openBase(t, store, kept) },
			} {
				if when == "found at the start" && test.snapshot > 0 {
					makeSnapshot(t, kept, openBase(t, store, kept), test.snapshot)
				}
				var entry raft.Log
				err := open().GetLog(test.index, &entry)
				switch {
				case test.term == 0 && err != raft.ErrLogNotFound:
					t.Errorf("%s: found %+v, error %v", when, entry, err)
				case test.term != 0 && (err != nil || entry.Index != test.index || entry.Term != test.term):
					t.Errorf("%s: found %+v, error %v, want term %d", when, entry, err, test.term)
				}
			}
		})
	}
}

func openBase(t *testing.T, store raft.LogStore, kept raft.SnapshotStore) *baseLog {
	t.Helper()
	cache, err := raft.NewLogCache(16, store)
	if err != nil {
		t.Fatal(err)
	}
	log := &baseLog{LogStore: cache}
	if _, err := newBasing(kept, log); err != nil {
		t.Fatal(err)
	}
	return log
}

func makeSnapshot(t *testing.T, kept raft.SnapshotStore, log *baseLog, index uint64) {
	t.Helper()
	snapshots, err := newBasing(kept, log)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := snapshots.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}
