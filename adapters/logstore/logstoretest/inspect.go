package logstoretest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Tree describes every file in dir: its name, mode, time and content. If two descriptions
// are equal, nothing was changed in between.
func Tree(tb testing.TB, dir string) string {
	tb.Helper()
	var tree strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if entry.Type().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		name, err := filepath.Rel(dir, path)
		_, _ = fmt.Fprintf(&tree, "%s %s %s %x\n", name, info.Mode(), info.ModTime().UTC(), sha256.Sum256(content))
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return tree.String()
}

// RunInspect checks the contract of logstore.Backend's Inspect, for a backend that is not
// volatile.
func RunInspect(t *testing.T, backend logstore.Backend) {
	t.Run("a directory without a store", func(t *testing.T) {
		dir := t.TempDir()
		before := Tree(t, dir)
		if _, err := backend.Inspect(dir, nil); !errors.Is(err, logstore.ErrNoStore) || !strings.Contains(err.Error(), backend.Path(dir)) {
			t.Errorf("Inspect: %v, want ErrNoStore naming %s", err, backend.Path(dir))
		}
		wantSame(t, dir, before)
	})
	t.Run("a closed store", func(t *testing.T) {
		dir := t.TempDir()
		store := written(t, backend, dir)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		inspectWritten(t, backend, dir)
	})
	t.Run("a path with the characters of patterns", func(t *testing.T) { testPathIsNoPattern(t, backend) })
	t.Run("a store with unreadable files", func(t *testing.T) { testUnreadable(t, backend) })
	t.Run("a store after a crash", func(t *testing.T) {
		live := t.TempDir()
		store := written(t, backend, live)
		dir := Image(t, live)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		inspectWritten(t, backend, dir)
		// Open still recovers the store, as if it had not been inspected.
		store, err := backend.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantWritten(t, store)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a store outside of the working directory", func(t *testing.T) {
		dir := t.TempDir()
		t.Chdir(dir)
		if err := os.Mkdir("data", 0o700); err != nil {
			t.Fatal(err)
		}
		store := written(t, backend, "data")
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		inspectWritten(t, backend, "data")
	})
}

// The bounds of the log that written stores. Its beginning is removed, and it has a gap.
const (
	writtenFrom, writtenGap, writtenBehind, writtenTo = 41, 300, 351, 500
	writtenSize                                       = 3000
	writtenLarge                                      = 700_000
)

func written(t *testing.T, backend logstore.Backend, dir string) logstore.Store {
	t.Helper()
	store, err := backend.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustStore(t, store, entries(1, writtenGap-1, writtenSize)...)
	mustStore(t, store, entries(writtenBehind, writtenTo, writtenSize)...)
	mustStore(t, store, entry(writtenTo+1, writtenLarge))
	mustDelete(t, store, 1, writtenFrom-1)
	if err := errors.Join(
		store.SetUint64(logstore.TermKey, 73),
		store.SetUint64(logstore.VoteTermKey, 72),
		store.Set(logstore.VoteCandidateKey, []byte("node1:8008")),
	); err != nil {
		t.Fatal(err)
	}
	return store
}

func wantWritten(t *testing.T, store logstore.Store) {
	t.Helper()
	wantBounds(t, store, writtenFrom, writtenTo+1)
	wantNoEntry(t, store, writtenFrom-1)
	for index := uint64(writtenFrom); index < writtenGap; index++ {
		wantEntry(t, store, entry(index, writtenSize))
	}
	wantNoEntry(t, store, writtenGap)
	wantNoEntry(t, store, writtenBehind-1)
	for index := uint64(writtenBehind); index <= writtenTo; index++ {
		wantEntry(t, store, entry(index, writtenSize))
	}
	wantEntry(t, store, entry(writtenTo+1, writtenLarge))
	wantNoEntry(t, store, writtenTo+2)
	if term, err := store.GetUint64(logstore.TermKey); err != nil || term != 73 {
		t.Errorf("term = %d, %v, want 73", term, err)
	}
	if vote, err := store.Get(logstore.VoteCandidateKey); err != nil || string(vote) != "node1:8008" {
		t.Errorf("vote = %q, %v, want node1:8008", vote, err)
	}
	if _, err := store.Get([]byte("no such key")); !errors.Is(err, logstore.ErrKeyNotFound) {
		t.Errorf("Get of a key that was never set = %v, want %v", err, logstore.ErrKeyNotFound)
	}
}

func inspectWritten(t *testing.T, backend logstore.Backend, dir string) {
	t.Helper()
	before := Tree(t, dir)
	var warnings strings.Builder
	store, err := backend.Inspect(dir, slog.New(slog.NewTextHandler(&warnings, nil)))
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	wantWritten(t, store)
	for name, err := range map[string]error{
		"StoreLog":    store.StoreLog(&raft.Log{Index: writtenTo + 2}),
		"StoreLogs":   store.StoreLogs([]*raft.Log{{Index: writtenTo + 2}}),
		"DeleteRange": store.DeleteRange(1, writtenTo),
		"Set":         store.Set([]byte("k"), nil),
		"SetUint64":   store.SetUint64([]byte("k"), 1),
	} {
		if !errors.Is(err, logstore.ErrReadOnly) {
			t.Errorf("%s: %v, want ErrReadOnly", name, err)
		}
	}
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if warnings.Len() > 0 {
		t.Errorf("warnings about a sound store = %s, want none", &warnings)
	}
	wantSame(t, dir, before)
}

func wantSame(t *testing.T, dir, before string) {
	t.Helper()
	if after := Tree(t, dir); after != before {
		t.Errorf("the directory was changed: from\n%s\nto\n%s", before, after)
	}
}

// testUnreadable replaces each file of a store with one that the operating system can't
// open or read. That must not be reported as damage: the contents may be sound.
func testUnreadable(t *testing.T, backend logstore.Backend) {
	dir := t.TempDir()
	if err := written(t, backend, dir).Close(); err != nil {
		t.Fatal(err)
	}
	var paths []string
	err := filepath.WalkDir(backend.Path(dir), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) == 0 {
		t.Fatalf("files of the store = %q, %v, want some", paths, err)
	}
	for _, path := range paths {
		for name, take := range map[string]func(path string) error{
			"opened": func(path string) error { return os.Symlink(filepath.Base(path), path) }, // a link to itself
			"read":   func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) },
		} {
			aside := filepath.Join(t.TempDir(), "aside")
			if err := errors.Join(os.Rename(path, aside), take(path)); err != nil {
				t.Fatal(err)
			}
			for _, open := range []logstore.Opener{backend.Open, backend.Inspect} {
				store, err := open(dir, nil)
				if errors.Is(err, logstore.ErrDamaged) || errors.Is(err, logstore.ErrNoStore) {
					t.Errorf("error when %s can't be %s = %v, want neither ErrDamaged nor ErrNoStore", path, name, err)
				}
				if err == nil {
					_ = store.Close()
				}
			}
			if err := errors.Join(os.RemoveAll(path), os.Rename(aside, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	inspectWritten(t, backend, dir)
}

// testPathIsNoPattern puts a store in a directory whose name, taken for a pattern, would be
// malformed or match another directory.
func testPathIsNoPattern(t *testing.T, backend logstore.Backend) {
	for _, name := range []string{"n[12]", "n[1"} {
		parent := t.TempDir()
		dir, other := filepath.Join(parent, name), filepath.Join(parent, "n1")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(other, 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := written(t, backend, dir).Close(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if folder, err := os.Stat(backend.Path(other)); err == nil && folder.IsDir() {
			for _, suffix := range []string{"mem", "sst", "vlog", "wal"} {
				if err := os.WriteFile(filepath.Join(backend.Path(other), "0000000000000999."+suffix), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := Tree(t, other)
		store, err := backend.Open(dir, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantWritten(t, store)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		inspectWritten(t, backend, dir)
		if after := Tree(t, other); after != before {
			t.Errorf("%s: another directory was changed: from\n%s\nto\n%s", name, before, after)
		}
	}
}
