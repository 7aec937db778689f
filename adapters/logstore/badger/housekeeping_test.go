package badger_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
)

// diskUse returns how many bytes the files really take on the disk. The holes in the sparse
// files that badger creates take none.
func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	var blocks int64
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // badger removed it meanwhile
		}
		if err != nil {
			return err
		}
		var stat syscall.Stat_t
		if err := syscall.Stat(path, &stat); err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
		blocks += stat.Blocks
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blocks * 512
}

func openWithHousekeeping(t *testing.T, dir string, interval time.Duration) logstore.Store {
	t.Helper()
	store, err := badger.OpenEvery(dir, nil, interval)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// fillAndRemove stores entries of 1000 bytes and removes them in ranges, all but the last.
func fillAndRemove(t *testing.T, store logstore.Store, from, to, keep uint64) {
	t.Helper()
	const step = 500
	for first := from; first <= to; first += step {
		var logs []*raft.Log
		for index := first; index < first+step; index++ {
			logs = append(logs, &raft.Log{Index: index, Term: 1, Data: make([]byte, 1000)})
		}
		if err := store.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	for first := from; first <= to-keep; first += 10_000 {
		if err := store.DeleteRange(first, min(first+9_999, to-keep)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheDiskUseFollowsTheLog(t *testing.T) {
	const (
		entries = 50_000 // some 50 MB
		keep    = 100
		bound   = 20 << 20
	)
	shrinks := func(t *testing.T, dir string) {
		t.Helper()
		use := diskUse(t, dir)
		for deadline := time.Now().Add(30 * time.Second); use > bound && time.Now().Before(deadline); use = diskUse(t, dir) {
			<-time.After(20 * time.Millisecond)
		}
		if use > bound {
			t.Errorf("the disk use is %d MB, want at most %d MB for %d entries", use>>20, bound>>20, keep)
		}
		t.Logf("disk use: %d KB", use>>10)
	}
	closes := func(t *testing.T, store logstore.Store) {
		t.Helper()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("when a large log becomes short", func(t *testing.T) {
		dir := t.TempDir()
		store := openWithHousekeeping(t, dir, 50*time.Millisecond)
		fillAndRemove(t, store, 1, entries, keep)
		shrinks(t, dir)
		wantKept(t, store, entries-keep+1, entries)
		closes(t, store)
		store = open(t, dir)
		wantKept(t, store, entries-keep+1, entries)
		closes(t, store)
	})
	t.Run("when it became short just before the end", func(t *testing.T) {
		dir := t.TempDir()
		store := openWithHousekeeping(t, dir, time.Hour)
		fillAndRemove(t, store, 1, entries, keep)
		closes(t, store)
		if use := diskUse(t, dir); use < 2*bound {
			t.Fatalf("disk use before housekeeping = %d MB, too little to show anything", use>>20)
		}
		store = openWithHousekeeping(t, dir, 50*time.Millisecond)
		shrinks(t, dir)
		wantKept(t, store, entries-keep+1, entries)
		closes(t, store)
	})
}

func wantKept(t *testing.T, store logstore.Store, from, to uint64) {
	t.Helper()
	first, err := store.FirstIndex()
	last, errLast := store.LastIndex()
	if err := errors.Join(err, errLast); err != nil || first != from || last != to {
		t.Fatalf("bounds of the log = %d and %d (%v), want %d and %d", first, last, err, from, to)
	}
	for index := from; index <= to; index++ {
		var log raft.Log
		if err := store.GetLog(index, &log); err != nil || len(log.Data) != 1000 {
			t.Fatalf("GetLog(%d) = %d bytes, %v", index, len(log.Data), err)
		}
	}
}

func TestCloseWaitsForHousekeeping(t *testing.T) {
	// goleak, in TestMain, sees a goroutine that outlives this.
	for range 3 {
		store := openWithHousekeeping(t, t.TempDir(), time.Millisecond)
		fillAndRemove(t, store, 1, 20_000, 100)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
