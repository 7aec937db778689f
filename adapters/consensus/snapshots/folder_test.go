package snapshots

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestWhatADirectoryHoldsIsToldApart(t *testing.T) {
	dir := t.TempDir()
	none, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the contents of an empty directory", none, Contents{})

	store := openStore(t, dir)
	older, newer := newSnapshot(t, store, 9, "nine"), newSnapshot(t, store, 10, "ten")
	path := func(parts ...string) string { return filepath.Join(append([]string{store.folder}, parts...)...) }
	for _, name := range []string{"2-7-1000", "2-8-1000", "2-11-1000.tmp", "lost+found"} {
		if err := os.CopyFS(path(name), os.DirFS(path(newer))); err != nil {
			t.Fatal(err)
		}
	}
	for _, gone := range []string{path("2-7-1000", "meta.json"), path(older, "state.bin")} {
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
	}

	found, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Described) != 2 || found.Described[0].ID != newer || found.Described[1].ID != older {
		t.Fatalf("snapshots with an intact description = %+v, want %s and %s", found.Described, newer, older)
	}
	state, err := found.Described[0].OpenState()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(state)
	if err := errors.Join(err, state.Close()); err != nil || string(content) != "ten" {
		t.Errorf("state of the newest snapshot = %q, %v, want all of it", content, err)
	}
	if _, err := found.Described[1].OpenState(); !errors.Is(err, ErrMissing) {
		t.Errorf("OpenState without a state = %v, want ErrMissing", err)
	}
	mustEqual(t, "the path of the state", found.Described[1].StatePath(), path(older, "state.bin"))
	if len(found.Damaged) != 2 || found.Damaged[0].Path != path("2-7-1000", "meta.json") || !errors.Is(found.Damaged[0].Err, ErrMissing) ||
		found.Damaged[1].Path != path("2-8-1000", "meta.json") {
		t.Errorf("damaged = %+v, want the folder without a description, and the one with that of another snapshot", found.Damaged)
	}
	mustEqual(t, "the unfinished snapshots", found.Unfinished, []string{path("2-11-1000.tmp")})
}

func TestTheOrderOfSnapshotsIsThatOfTheirNumbers(t *testing.T) {
	ascending := []string{"1-9-1000", "1-10-900", "2-3-1000", "2-3-1001", "10-1-1"}
	for i, id := range ascending {
		for j, than := range ascending {
			if got, want := IsOlder(id, than), i < j; got != want {
				t.Errorf("IsOlder(%s, %s) = %v, want %v", id, than, got, want)
			}
		}
		for _, other := range []string{"", id + ".tmp", "note"} {
			if IsOlder(id, other) || IsOlder(other, id) {
				t.Errorf("%q is compared with %s, want no order", other, id)
			}
		}
	}
}
