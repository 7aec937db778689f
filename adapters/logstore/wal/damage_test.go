package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/wal"
)

// entry returns an entry with size bytes of data, each of which is the index.
func entry(index uint64, size int) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, size)}
}

func store(t testing.TB, s logstore.Store, logs ...*raft.Log) {
	t.Helper()
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

func closed(t testing.TB, s logstore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// left returns a directory with the entries 1 to last, each of the given size and stored by
// itself: as a crash leaves it, or, with ended, as an orderly stop does.
func left(t testing.TB, last uint64, size int, ended bool) string {
	t.Helper()
	live := t.TempDir()
	s := open(t, live)
	if err := s.SetUint64(logstore.TermKey, 7); err != nil {
		t.Fatal(err)
	}
	for index := uint64(1); index <= last; index++ {
		store(t, s, entry(index, size))
	}
	if ended {
		closed(t, s)
	}
	dir := logstoretest.Image(t, live)
	closed(t, s)
	return dir
}

// segments returns the paths of the log's files, in order.
func segments(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "log.wal", "*.wal"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no log in %s (%v)", dir, err)
	}
	return paths
}

func change(t testing.TB, path string, how func(raw []byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, how(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

// spoilt changes one byte in the data of an entry.
func spoilt(index byte) func([]byte) []byte {
	return func(raw []byte) []byte {
		raw[bytes.Index(raw, bytes.Repeat([]byte{index}, 100))] ^= 1
		return raw
	}
}

func noiseBehind(raw []byte) []byte {
	end := len(bytes.TrimRight(raw, "\x00"))
	for at := end; at < end+500; at++ {
		raw[at] = byte(1 + at%255)
	}
	return raw
}

func TestOpenAfterACrash(t *testing.T) {
	tests := map[string]struct {
		ended  bool // it was closed
		damage func(t *testing.T, dir string)
		last   uint64 // 0: refused
	}{
		"an intact log":                  {damage: func(*testing.T, string) {}, last: 20},
		"a last write that is torn":      {damage: func(t *testing.T, dir string) { change(t, segments(t, dir)[0], spoilt(20)) }, last: 19},
		"the beginning of another write": {damage: func(t *testing.T, dir string) { change(t, segments(t, dir)[0], noiseBehind) }, last: 20},
		"a write before the last":        {damage: func(t *testing.T, dir string) { change(t, segments(t, dir)[0], spoilt(19)) }},
		"a write in the middle":          {damage: func(t *testing.T, dir string) { change(t, segments(t, dir)[0], spoilt(10)) }},
		"the last write before a stop":   {ended: true, damage: func(t *testing.T, dir string) { change(t, segments(t, dir)[0], spoilt(20)) }},
		"a file that is cut off in the zeros": {damage: func(t *testing.T, dir string) {
			change(t, segments(t, dir)[0], func(raw []byte) []byte { return raw[:len(raw)-1] })
		}},
		"a file that is cut off": {damage: func(t *testing.T, dir string) {
			change(t, segments(t, dir)[0], func(raw []byte) []byte { return raw[:bytes.IndexByte(raw, 15)] })
		}},
		"an empty file": {damage: func(t *testing.T, dir string) {
			change(t, segments(t, dir)[0], func([]byte) []byte { return nil })
		}},
		"the beginning of the file": {damage: func(t *testing.T, dir string) {
			change(t, segments(t, dir)[0], func(raw []byte) []byte { raw[20] ^= 1; return raw })
		}},
		"no file": {damage: func(t *testing.T, dir string) {
			if err := os.Remove(segments(t, dir)[0]); err != nil {
				t.Fatal(err)
			}
		}},
		"no list": {damage: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "log.wal", "segments.json")); err != nil {
				t.Fatal(err)
			}
		}},
		"another list": {damage: func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "log.wal", "segments.json"), func(raw []byte) []byte {
				return bytes.Replace(raw, []byte(`"last":1`), []byte(`"last":0`), 1)
			})
		}},
		"a file that does not belong to the log": {damage: func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "log.wal", "0000000000000002.wal"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, last: 20},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := left(t, 20, 300, test.ended)
			test.damage(t, dir)
			if test.last == 0 {
				wantRefused(t, dir)
				return
			}
			wantUpTo(t, dir, test.last, 300)
			wantUpTo(t, dir, test.last+5, 300) // which goes on where it ended
		})
	}
}

// wantRefused checks that Open reports a store as damaged, names it in the error, and
// changes nothing.
func wantRefused(t testing.TB, dir string) {
	t.Helper()
	before := logstoretest.Tree(t, dir)
	for _, open := range []logstore.Opener{wal.Open, wal.Inspect} {
		s, err := open(dir, nil)
		if err == nil {
			last, _ := s.LastIndex()
			_ = s.Close()
			t.Fatalf("Open succeeded with last index %d, want an error", last)
		}
		if !errors.Is(err, logstore.ErrDamaged) || !strings.Contains(err.Error(), filepath.Join(dir, "log.wal")) {
			t.Errorf("Open = %v, want ErrDamaged naming log.wal", err)
		}
	}
	if after := logstoretest.Tree(t, dir); after != before {
		t.Errorf("the directory was changed from\n%s\nto\n%s", before, after)
	}
}

// wantUpTo stores the entries up to last that are missing, and then checks that the store
// holds the entries 1 to last.
func wantUpTo(t testing.TB, dir string, last uint64, size int) {
	t.Helper()
	s := open(t, dir)
	defer closed(t, s)
	reached, err := s.LastIndex()
	if err != nil || reached > last {
		t.Fatalf("LastIndex = %d, %v, want at most %d", reached, err, last)
	}
	for index := reached + 1; index <= last; index++ {
		store(t, s, entry(index, size))
	}
	for index := uint64(1); index <= last; index++ {
		var got raft.Log
		if err := s.GetLog(index, &got); err != nil || !bytes.Equal(got.Data, entry(index, size).Data) {
			t.Fatalf("entry %d: %v", index, err)
		}
	}
	if term, err := s.GetUint64(logstore.TermKey); err != nil || term != 7 {
		t.Errorf("term = %d, %v, want 7", term, err)
	}
}

func TestInspectWarnsOfATornEnd(t *testing.T) {
	dir := left(t, 20, 300, false)
	change(t, segments(t, dir)[0], noiseBehind)
	var warnings strings.Builder
	s, err := wal.Inspect(dir, slog.New(slog.NewTextHandler(&warnings, nil)))
	if err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if !strings.Contains(warnings.String(), "the last write is not whole") || !strings.Contains(warnings.String(), segments(t, dir)[0]) {
		t.Errorf("warnings = %q, want that the last write is not whole, naming the file", &warnings)
	}
}

func TestALogOfSeveralFiles(t *testing.T) {
	const last, size = 50, 100_000 // five megabytes, and little of them in the last file
	for at, name := range []string{"the first", "the second", "the last"} {
		t.Run(name+" is missing", func(t *testing.T) {
			dir := left(t, last, size, true)
			paths := segments(t, dir)
			if len(paths) < 3 {
				t.Fatalf("segments = %q, want at least 3", paths)
			}
			if err := os.Remove(slices.Concat(paths[:2], paths[len(paths)-1:])[at]); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, dir)
		})
	}
	t.Run("the end of a file before the last is damaged", func(t *testing.T) {
		dir := left(t, last, size, false)
		change(t, segments(t, dir)[0], func(raw []byte) []byte {
			raw[len(bytes.TrimRight(raw, "\x00"))-20] ^= 1
			return raw
		})
		wantRefused(t, dir)
	})
	t.Run("all files are intact", func(t *testing.T) { wantUpTo(t, left(t, last, size, false), last+30, size) })
}

// If any single byte changes, no entry that was acknowledged before the last one is lost,
// and no entry is read as another one.
func TestOneSpoiltByteIsFound(t *testing.T) {
	const last = 20
	intact := left(t, last, 40, false)
	raw, err := os.ReadFile(segments(t, intact)[0])
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimRight(raw, "\x00"))
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		dir := filepath.Join(t.TempDir(), fmt.Sprint(runs))
		if err := os.CopyFS(dir, os.DirFS(intact)); err != nil {
			r.Fatal(err)
		}
		spoilt := bytes.Clone(raw)
		spoilt[rapid.IntRange(0, end-1).Draw(r, "at")] ^= byte(rapid.IntRange(1, 255).Draw(r, "by"))
		if err := os.WriteFile(segments(t, dir)[0], spoilt, 0o600); err != nil {
			r.Fatal(err)
		}
		s, err := wal.Open(dir, nil)
		if err != nil {
			if !errors.Is(err, logstore.ErrDamaged) {
				r.Fatal(err)
			}
			return
		}
		defer closed(t, s)
		reached, err := s.LastIndex()
		if err != nil || reached < last-1 {
			r.Fatalf("LastIndex = %d, %v, want at least %d", reached, err, last-1)
		}
		for index := uint64(1); index <= reached; index++ {
			var got raft.Log
			if err := s.GetLog(index, &got); err != nil || !bytes.Equal(got.Data, entry(index, 40).Data) {
				r.Fatalf("entry %d: %v", index, err)
			}
		}
	})
}

func TestAnEntryDamagedAfterOpenIsNotReturned(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer closed(t, s)
	store(t, s, entry(1, 300), entry(2, 300), entry(3, 300))
	change(t, segments(t, dir)[0], spoilt(2))
	var got raft.Log
	if err := s.GetLog(2, &got); !errors.Is(err, logstore.ErrDamaged) || !strings.Contains(err.Error(), segments(t, dir)[0]) {
		t.Errorf("GetLog of the damaged entry = %v, want ErrDamaged naming the file", err)
	}
	if err := s.GetLog(3, &got); err != nil {
		t.Errorf("GetLog of the next entry = %v, want success", err)
	}
}
