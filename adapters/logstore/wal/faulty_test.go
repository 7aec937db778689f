package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

var errBroken = errors.New("input/output error")

// faulty writes so many bytes, and fails then; or fails to sync what it wrote.
type faulty struct {
	file
	writes int // -1: all
}

func (f *faulty) WriteAt(raw []byte, at int64) (int, error) {
	if f.writes < 0 {
		return f.file.WriteAt(raw, at)
	}
	count, err := f.file.WriteAt(raw[:min(f.writes, len(raw))], at)
	return count, errors.Join(errBroken, err)
}

func (f *faulty) Sync() error { return errBroken }

func opened(t *testing.T, dir string) *store {
	t.Helper()
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*store)
}

func entries(from, to uint64, mark byte, size int) []*raft.Log {
	var logs []*raft.Log
	for index := from; index <= to; index++ {
		logs = append(logs, &raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{mark}, size)})
	}
	return logs
}

// failing has a call fail as a disk would let it.
func failing(t *testing.T, s *store, writes int, call func() error) {
	t.Helper()
	tail := s.segments[len(s.segments)-1]
	sound := tail.file
	tail.file = &faulty{file: sound, writes: writes}
	if err := call(); !errors.Is(err, errBroken) {
		t.Errorf("it answers %v", err)
	}
	tail.file = sound
}

// crashed opens a copy of the files as they are now.
func crashed(t *testing.T, dir string) *store {
	t.Helper()
	image := t.TempDir()
	if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s := opened(t, image)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func wantMarks(t *testing.T, s *store, marks string) {
	t.Helper()
	if _, last := s.places.bounds(); last != uint64(len(marks)) {
		t.Fatalf("it reaches %d, want %d", last, len(marks))
	}
	for at := range marks {
		var got raft.Log
		if err := s.GetLog(uint64(at+1), &got); err != nil || got.Data[0] != marks[at] {
			t.Errorf("entry %d is %q, %v; want %q", at+1, got.Data, err, marks[at])
		}
	}
}

// What a write has left that failed, however much of it, is no part of the log, nor of
// the write that takes its place.
func TestAWriteThatFails(t *testing.T) {
	for _, writes := range []int{-1, 0, 10, 100, 130, 200, 300} {
		t.Run(fmt.Sprintf("after %d bytes", writes), func(t *testing.T) {
			dir := t.TempDir()
			s := opened(t, dir)
			defer func() { _ = s.Close() }()
			if err := s.StoreLogs(entries(1, 2, 'a', 50)); err != nil {
				t.Fatal(err)
			}
			for _, mark := range []byte("bc") {
				failing(t, s, writes, func() error { return s.StoreLogs(entries(3, 7, mark, 50)) })
				wantMarks(t, s, "aa")
			}
			if err := s.StoreLogs(entries(3, 4, 'd', 50)); err != nil {
				t.Fatal(err)
			}
			wantMarks(t, s, "aadd")
			wantMarks(t, crashed(t, dir), "aadd")
			if err := s.StoreLogs(entries(5, 5, 'e', 50)); err != nil {
				t.Fatal(err)
			}
			wantMarks(t, crashed(t, dir), "aadde")
		})
	}
}

// A crash while a failed write is tried again can leave both on the disk in parts: all
// of the one, all of the other or none.
func TestACrashBetweenTwoTries(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	defer func() { _ = s.Close() }()
	if err := s.StoreLogs(entries(1, 2, 'a', 50)); err != nil {
		t.Fatal(err)
	}
	failing(t, s, -1, func() error { return s.StoreLogs(entries(3, 6, 'b', 50)) })
	wantMarks(t, crashed(t, dir), "aabbbb")
	size := recordSize(len(s.buffer.raw)/4 - recordHeader - 1)
	for writes := size / 2; writes < 4*size; writes += size / 2 {
		failing(t, s, writes, func() error { return s.StoreLogs(entries(3, 6, 'c', 50)) })
		wantMarks(t, crashed(t, dir), "aa")
	}
}

// What failed at the end of one file and was stored in the next one is there once.
func TestAWriteThatFailsAndGoesToTheNextFile(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	defer func() { _ = s.Close() }()
	if err := s.StoreLogs(entries(1, 1, 'a', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	failing(t, s, -1, func() error { return s.StoreLogs(entries(2, 3, 'b', 50)) })
	if err := s.StoreLogs(entries(2, 2, 'c', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	if len(s.segments) != 2 {
		t.Fatalf("there are %d segments", len(s.segments))
	}
	wantMarks(t, s, "ac")
	wantMarks(t, crashed(t, dir), "ac")
}

// Without a list that names the new file nothing is acknowledged that is in it, and
// nothing goes to the one before.
func TestAListThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	defer func() { _ = s.Close() }()
	if err := s.StoreLogs(entries(1, 1, 'a', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(s.path, listName+".tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.StoreLogs(entries(2, 2, 'b', segmentSize/2)); err == nil {
			t.Fatal("it was stored")
		}
		if err := s.SetUint64([]byte("term"), 1); err == nil {
			t.Fatal("a term was stored")
		}
		wantMarks(t, s, "a")
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, crashed(t, dir), "a")
	if err := s.StoreLogs(entries(2, 2, 'c', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, s, "ac")
	wantMarks(t, crashed(t, dir), "ac")
}

// Files that could not be removed from the list go the next time.
func TestFilesThatCannotBeRemovedGoLater(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	defer func() { _ = s.Close() }()
	for index := uint64(1); index <= 4; index++ {
		if err := s.StoreLogs(entries(index, index, byte('a'+index), segmentSize/2)); err != nil {
			t.Fatal(err)
		}
	}
	inTheWay := filepath.Join(s.path, listName+".tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := len(s.segments)
	if err := s.DeleteRange(1, 2); err != nil {
		t.Fatal(err)
	}
	if first, _ := s.places.bounds(); first != 3 || len(s.segments) != before {
		t.Errorf("it begins with %d, and has %d files of %d", first, len(s.segments), before)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 3); err != nil {
		t.Fatal(err)
	}
	if files, err := segmentFiles(s.path); err != nil || len(files) != len(s.segments) || len(files) > before-2 {
		t.Errorf("there are %q, %v", files, err)
	}
}
