package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// contents describes everything that a store holds.
func contents(t *testing.T, s *store) string {
	t.Helper()
	var text strings.Builder
	first, last := s.places.bounds()
	for index := first; index <= last && index > 0; index++ {
		var entry raft.Log
		switch err := s.GetLog(index, &entry); {
		case err == nil:
			fmt.Fprintf(&text, "%d:%c ", index, entry.Data[0])
		case err != raft.ErrLogNotFound:
			t.Fatal(err)
		}
	}
	for _, key := range [][]byte{logstore.TermKey, logstore.VoteTermKey, logstore.VoteCandidateKey} {
		value, err := s.Get(key)
		fmt.Fprintf(&text, "%s=%x %v ", key, value, err)
	}
	return text.String()
}

// crashImage returns a copy of the directory as it is on the disk now.
func crashImage(t *testing.T, s *store) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s.filesMu.Lock()
	defer s.filesMu.Unlock()
	if err := os.CopyFS(dir, os.DirFS(filepath.Dir(s.path))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// overwritten is a file of the log before and after a write.
type overwritten struct {
	name          string
	before, after []byte
	from, to      int // the range that differs
}

func differences(t *testing.T, before, after string) (found []overwritten) {
	t.Helper()
	paths, err := segmentFiles(filepath.Join(before, dirName))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		name := filepath.Base(path)
		is, err := os.ReadFile(filepath.Join(after, dirName, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		was, err2 := os.ReadFile(path)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(was, is) {
			continue
		}
		w := overwritten{name: name, before: was, after: is, to: len(was)}
		for was[w.from] == is[w.from] {
			w.from++
		}
		for was[w.to-1] == is[w.to-1] {
			w.to--
		}
		found = append(found, w)
	}
	return found
}

// Whatever part of a write reaches the disk before the machine fails, the log has all of the
// write afterwards, or nothing of it; and it loses nothing when it goes on from there.
func TestATornWriteIsAllOrNothing(t *testing.T) {
	live := opened(t, t.TempDir())
	defer ended(t, live)
	writes := []struct {
		name string
		do   func() error
	}{
		{"the first term", func() error { return live.SetUint64(logstore.TermKey, 7) }},
		{"the candidate", func() error { return live.Set(logstore.VoteCandidateKey, []byte("n2@host:8008")) }},
		{"the vote", func() error { return live.SetUint64(logstore.VoteTermKey, 7) }},
		{"entries", func() error { return live.StoreLogs(entries(1, 2, 'a', 9)) }},
		{"the removal of the end", func() error { return live.DeleteRange(2, 2) }},
		{"what takes its place", func() error { return live.StoreLogs(entries(2, 3, 'b', 9)) }},
		{"another file", func() error { return live.rotate(0) }},
		{"entries in that", func() error { return live.StoreLogs(entries(4, 4, 'c', 9)) }},
		{"the removal of the beginning", func() error { return live.DeleteRange(1, 3) }},
		{"one more file", func() error { return live.rotate(0) }},
		{"the removal of everything", func() error { return live.DeleteRange(4, 4) }},
		{"the orderly end", func() error { return live.markLog() }},
	}
	for _, write := range writes {
		t.Run(write.name, func(t *testing.T) {
			if err := live.ensureSpare(segmentSize); err != nil { // so that a new file is there before
				t.Fatal(err)
			}
			before, was := crashImage(t, live), contents(t, live)
			if err := write.do(); err != nil {
				t.Fatal(err)
			}
			is := contents(t, live)
			for _, w := range differences(t, before, crashImage(t, live)) {
				for cut := w.from &^ (alignment - 1); cut <= w.to; cut += alignment {
					for _, torn := range [][]byte{
						append(bytes.Clone(w.after[:cut]), w.before[cut:]...),
						append(bytes.Clone(w.before[:cut]), w.after[cut:]...),
					} {
						goesOn(t, before, w.name, torn, was, is)
					}
				}
			}
		})
	}
}

// goesOn opens a copy of a directory in which a file of the log is torn, and appends to it.
func goesOn(t *testing.T, dir, name string, torn []byte, wants ...string) {
	t.Helper()
	image := t.TempDir()
	if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, dirName, name), torn, 0o600); err != nil {
		t.Fatal(err)
	}
	s := opened(t, image)
	if got := contents(t, s); got != wants[0] && got != wants[1] {
		t.Errorf("contents after the torn write = %s, want %s or %s", got, wants[0], wants[1])
	}
	first, last := s.places.bounds()
	if err := errors.Join(s.StoreLogs(entries(last+1, last+1, 'z', 9)), s.DeleteRange(first, last), s.keep()); err != nil {
		t.Fatal(err)
	}
	want, again := contents(t, s), crashImage(t, s)
	ended(t, s)
	s = opened(t, again)
	if got := contents(t, s); got != want {
		t.Errorf("contents after the next write = %s, want %s", got, want)
	}
	ended(t, s)
}
