package snapshots

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

func newSnapshot(t *testing.T, store raft.SnapshotStore, index uint64, content string) (id string) {
	t.Helper()
	_, transport := raft.NewInmemTransport("")
	sink, err := store.Create(1, index, 2, someDescription().Configuration, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(sink, content); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

// A disk on which snapshots fail must not be filled with their incomplete files.
func TestASnapshotThatCouldNotBeWrittenLeavesNothing(t *testing.T) {
	store := openStore(t, t.TempDir())
	for name, fails := range map[string]func(*diskSink) error{
		"the state can't be written":       func(s *diskSink) error { return s.state.Close() },
		"the description can't be written": func(s *diskSink) error { return os.MkdirAll(filepath.Join(s.path, metaFile, "x"), 0o700) },
		"the folder can't be renamed":      func(s *diskSink) error { return os.MkdirAll(filepath.Join(store.folder, s.ID(), "x"), 0o700) },
	} {
		sink, err := store.Create(1, 9, 2, someDescription().Configuration, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(sink, "state"); err != nil {
			t.Fatal(err)
		}
		if err := fails(sink.(*diskSink)); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err == nil || !strings.Contains(err.Error(), sink.ID()) {
			t.Errorf("%s: Close = %v, want an error that names the snapshot", name, err)
		}
		inTheWay := filepath.Join(store.folder, sink.ID())
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		if left := namesIn(t, store.folder); len(left) != 0 {
			t.Errorf("%s: files left = %q, want none", name, left)
		}
	}
}

// If a snapshot could not be completed, raft goes on with its log.
func TestASnapshotWhoseNameMayBeLostIsNotThere(t *testing.T) {
	store := openStore(t, t.TempDir())
	sink, err := store.Create(1, 9, 2, someDescription().Configuration, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	logstoretest.Unlisted(t, store.folder, func() {
		if err := sink.Close(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Close = %v, want fs.ErrPermission", err)
		}
	})
	if list, err := store.List(); err != nil || len(list) > 0 {
		t.Errorf("List = %+v, %v, want no snapshot", list, err)
	}
}

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	store, err := Open(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// Builds that are older than Store use raft.FileSnapshotStore.
func TestSnapshotsAreReadByBuildsFromBeforeAndTheOtherWayRound(t *testing.T) {
	dir := t.TempDir()
	theirs, err := raft.NewFileSnapshotStore(dir, Retained, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ours := openStore(t, dir)
	a, b := newSnapshot(t, ours, 10, "ours"), newSnapshot(t, theirs, 20, "theirs")
	for name, store := range map[string]raft.SnapshotStore{"ours": ours, "theirs": theirs} {
		list, err := store.List()
		if err != nil || len(list) != 2 || list[0].ID != b || list[1].ID != a {
			t.Fatalf("%s: List = %v, %v, want two snapshots, the newest first", name, list, err)
		}
		for id, want := range map[string]string{a: "ours", b: "theirs"} {
			meta, state, err := store.Open(id)
			if err != nil {
				t.Fatalf("%s: Open(%s) = %v, want success", name, id, err)
			}
			content, err := io.ReadAll(state)
			if err != nil || string(content) != want || state.Close() != nil {
				t.Errorf("%s: content = %q, %v, want that of the snapshot", name, content, err)
			}
			mustEqual(t, name, meta.Configuration, someDescription().Configuration)
			if meta.ConfigurationIndex != 1 || meta.Size != int64(len(want)) || meta.Term != 2 {
				t.Errorf("%s: meta = %+v, want configuration index 1, term 2 and the right size", name, meta)
			}
		}
	}
}

// The log is cut behind a snapshot at the start too, so the snapshot's name must be durable
// by then.
func TestTheNameOfASnapshotIsMadeDurableBeforeItIsUsed(t *testing.T) {
	dir := t.TempDir()
	open := func() error {
		_, err := Open(dir, nil, slog.New(slog.DiscardHandler))
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	for _, unsynced := range []string{filepath.Join(dir, logstore.SnapshotsFolder), dir} {
		logstoretest.Unlisted(t, unsynced, func() {
			if err := open(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("open without sync of %s = %v, want fs.ErrPermission", unsynced, err)
			}
		})
	}
}

func TestASnapshotIsThereWhenItIsClosed(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir)
	sink, err := store.Create(1, 10, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := store.List(); err != nil || len(list) != 0 {
		t.Errorf("List before Close = %v, %v, want no snapshot", list, err)
	}
	if err := sink.Cancel(); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Errorf("Close of a cancelled snapshot = %v, want no error", err)
	}
	if left := namesIn(t, store.folder); len(left) > 0 {
		t.Errorf("files left = %q, want none", left)
	}
	if _, err := store.Create(2, 10, 2, raft.Configuration{}, 1, nil); err == nil {
		t.Error("Create with an unknown version = nil error, want an error")
	}
	id := newSnapshot(t, store, 11, "x")
	mustEqual(t, "the files of the snapshot", namesIn(t, filepath.Join(store.folder, id)), []string{"meta.json", "state.bin"})
}

// flip inverts a bit of the byte at a position of a file.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 0x20
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedSnapshotIsNotGiven(t *testing.T) {
	for _, file := range []string{"meta.json", "state.bin"} {
		dir := t.TempDir()
		store := openStore(t, dir)
		older, newer := newSnapshot(t, store, 10, strings.Repeat("x", 100)), newSnapshot(t, store, 20, strings.Repeat("y", 100))
		flip(t, filepath.Join(store.folder, newer, file), 40)
		if _, _, err := store.Open(newer); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("Open with damage in %s = %v, want an error that names the file", file, err)
		}
		list, err := store.List()
		if err != nil || list[len(list)-1].ID != older {
			t.Errorf("List with damage in %s = %v, %v, want the older snapshot last", file, list, err)
		}
	}
}

// Everything older than the last two snapshots is removed, incomplete snapshots too.
func TestOldSnapshotsAreRemoved(t *testing.T) {
	store := openStore(t, t.TempDir())
	first := newSnapshot(t, store, 10, "1")
	if err := os.Remove(filepath.Join(store.folder, first, "meta.json")); err != nil {
		t.Fatal(err)
	}
	second := newSnapshot(t, store, 20, "2")
	third := newSnapshot(t, store, 30, "3")
	mustEqual(t, "the snapshots before there are two newer ones", namesIn(t, store.folder), []string{first, second, third})
	stranger := filepath.Join(store.folder, "note")
	if err := os.Mkdir(stranger, 0o700); err != nil {
		t.Fatal(err)
	}
	fourth := newSnapshot(t, store, 40, "4")
	mustEqual(t, "the snapshots at the end", namesIn(t, store.folder), []string{third, fourth, "note"})
}
