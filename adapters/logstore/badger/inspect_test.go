package badger_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

var backend = logstore.Backend{Name: "badger", Open: badger.Open, Inspect: badger.Inspect}

func TestInspect(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	logstoretest.RunInspect(t, backend)
	wantNothingLeft(t)
}

func wantNothingLeft(t *testing.T) {
	t.Helper()
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("files left in the directory for temporary files = %v (%v), want none", left, err)
	}
}

func TestInspectShowsWhatAnInstanceWouldFind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	tests := map[string]struct {
		damage func(t *testing.T, wal string)
		last   uint64 // 0: refused
		warns  bool
	}{
		"an intact log":           {damage: func(*testing.T, string) {}, last: 20},
		"a torn last transaction": {damage: func(t *testing.T, wal string) { overwrite(t, wal, dataOf(20)) }, last: 19, warns: true},
		"damage further inside":   {damage: func(t *testing.T, wal string) { overwrite(t, wal, dataOf(10)) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := crashed(t)
			wal := walOf(t, dir)
			test.damage(t, wal)
			before := logstoretest.Tree(t, dir)
			var warnings strings.Builder
			store, err := badger.Inspect(dir, slog.New(slog.NewTextHandler(&warnings, nil)))
			if test.last == 0 {
				if !errors.Is(err, badger.ErrDamaged) || !strings.Contains(err.Error(), wal) {
					t.Errorf("Inspect = %v, want ErrDamaged naming %s", err, wal)
				}
			} else if err != nil {
				t.Fatal(err)
			} else {
				wantEntries(t, store, test.last)
				if err := store.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if warned := strings.Contains(warnings.String(), wal); warned != test.warns {
				t.Errorf("a warning names the file = %v, want %v: %q", warned, test.warns, &warnings)
			}
			if after := logstoretest.Tree(t, dir); after != before {
				t.Errorf("the directory was changed from\n%s\nto\n%s", before, after)
			}
		})
	}
	wantNothingLeft(t)
}

// candidate has the vote in a directory that tabled returns.
const candidate = "10.0.0.7:8008"

// tabled returns a directory with a log, a term and a vote that are in a table, as after an
// orderly stop.
func tabled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	store := open(t, dir)
	if err := errors.Join(store.SetUint64(logstore.TermKey, 7), store.Set(logstore.VoteCandidateKey, []byte(candidate))); err != nil {
		t.Fatal(err)
	}
	for index := uint64(1); index <= 200; index++ {
		if err := store.StoreLog(&raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, 300)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func only(t *testing.T, dir, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "log.badger", pattern))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s: %v, %v", pattern, paths, err)
	}
	return paths[0]
}

// Some of these bytes would make badger end the process, and so this test.
func TestEveryDamagedByteOfATableIsRefused(t *testing.T) {
	dir := tabled(t)
	path := only(t, dir, "*.sst")
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	places := []int{0, 1, 10, len(intact) / 2}
	for at := len(intact) - 300; at < len(intact); at += 3 {
		places = append(places, at) // index, checksum and sizes
	}
	for at := range 40 {
		places = append(places, len(intact)-1-at)
	}
	for _, at := range places {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			raw := bytes.Clone(intact)
			raw[at] ^= flip
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			for name, open := range map[string]logstore.Opener{"Open": badger.Open, "Inspect": badger.Inspect} {
				store, err := open(dir, nil)
				if err == nil {
					_ = store.Close()
					t.Fatalf("%s accepted byte %d xor %#x of %d", name, at, flip, len(intact))
				}
				if !errors.Is(err, badger.ErrDamagedTables) || !strings.Contains(err.Error(), path) {
					t.Fatalf("%s = %v, want ErrDamagedTables naming %s", name, err, path)
				}
			}
		}
	}
	if err := os.WriteFile(path, intact[:len(intact)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := badger.Open(dir, nil); !errors.Is(err, badger.ErrDamagedTables) {
		t.Errorf("Open of half a table = %v, want ErrDamagedTables", err)
	}
	if err := os.WriteFile(path, intact, 0o600); err != nil {
		t.Fatal(err)
	}
	store := open(t, dir)
	if last, err := store.LastIndex(); err != nil || last != 200 {
		t.Errorf("LastIndex in the end = %d, %v, want 200", last, err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingFilesAreRefused(t *testing.T) {
	tests := map[string]struct {
		left    func(*testing.T) string
		missing string
	}{
		"a table":                          {tabled, "*.sst"},
		"the list of tables":               {tabled, "MANIFEST"},
		"the list of tables after a crash": {crashed, "MANIFEST"}, // which left no table
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := test.left(t)
			path := only(t, dir, test.missing)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			wantUnopened(t, dir, badger.ErrDamagedTables, path)
		})
	}
}

// badger makes a new one.
func TestAMissingKeyRegistryIsNoDamage(t *testing.T) {
	dir := tabled(t)
	if err := os.Remove(only(t, dir, "KEYREGISTRY")); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]logstore.Opener{"Inspect": badger.Inspect, "Open": badger.Open} {
		store, err := open(dir, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if last, err := store.LastIndex(); err != nil || last != 200 {
			t.Errorf("%s: LastIndex = %d, %v, want 200", name, last, err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestATableThatACrashLeftHalfWrittenIsNoDamage(t *testing.T) {
	dir := tabled(t)
	half := filepath.Join(dir, "log.badger", "000077.sst")
	if err := os.WriteFile(half, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := badger.Inspect(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last, err := store.LastIndex(); err != nil || last != 200 {
		t.Errorf("LastIndex = %d, %v, want 200", last, err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); err != nil {
		t.Errorf("the half-written table was removed: %v", err)
	}
	store = open(t, dir)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestInspectWarnsOfATruncatedListOfTables(t *testing.T) {
	dir := tabled(t)
	path := only(t, dir, "MANIFEST")
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(slices.Concat([]byte{0, 0, 0, 30}, make([]byte, 9)))
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	var warnings strings.Builder
	store, err := badger.Inspect(dir, slog.New(slog.NewTextHandler(&warnings, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(warnings.String(), path) {
		t.Errorf("warnings = %q, want one that names %s", &warnings, path)
	}
}
