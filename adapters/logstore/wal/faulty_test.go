package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

var errBroken = errors.New("input/output error")

// faulty is a file whose writes fail after a number of bytes, and whose syncs fail.
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

func TestAFullDiskIsDistinguishedFromABrokenOne(t *testing.T) {
	for cause, full := range map[error]bool{syscall.ENOSPC: true, syscall.EDQUOT: true, syscall.EIO: false, errBroken: false} {
		err := noRoom(&fs.PathError{Op: "write", Path: "x", Err: cause}, "dir", segmentSize)
		if got := errors.As(err, new(*logstore.NoRoomError)); got != full {
			t.Errorf("%v is reported as a lack of room = %v, want %v", cause, got, full)
		}
	}
}

// failing runs call, which must fail, while the tail is faulty.
func failing(t *testing.T, s *store, writes int, call func() error) {
	t.Helper()
	failingIn(t, s.tail, writes, call)
}

func failingIn(t *testing.T, in *segment, writes int, call func() error) {
	t.Helper()
	sound := in.file
	in.file = &faulty{file: sound, writes: writes}
	if err := call(); !errors.Is(err, errBroken) {
		t.Errorf("error = %v, want %v", err, errBroken)
	}
	in.file = sound
}

// crashed opens a copy of the files as they are now.
func crashed(t *testing.T, live *store) *store {
	t.Helper()
	image := t.TempDir()
	live.filesMu.Lock() // a file that is removed meanwhile can't be copied
	err := os.CopyFS(image, os.DirFS(filepath.Dir(live.path)))
	live.filesMu.Unlock()
	if err != nil {
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
		t.Fatalf("LastIndex = %d, want %d", last, len(marks))
	}
	for at := range marks {
		var got raft.Log
		if err := s.GetLog(uint64(at+1), &got); err != nil || got.Data[0] != marks[at] {
			t.Errorf("entry %d = %q, %v, want %q", at+1, got.Data, err, marks[at])
		}
	}
}

// However much a failed write left, it is neither part of the log nor part of the write that
// overwrites it.
func TestAFailedWriteLeavesNothingInTheLog(t *testing.T) {
	for _, writes := range []int{-1, 0, 10, 100, 130, 200, 300} {
		t.Run(fmt.Sprintf("after %d bytes", writes), func(t *testing.T) {
			s := opened(t, t.TempDir())
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
			wantMarks(t, crashed(t, s), "aadd")
			if err := s.StoreLogs(entries(5, 5, 'e', 50)); err != nil {
				t.Fatal(err)
			}
			wantMarks(t, crashed(t, s), "aadde")
		})
	}
}

// A crash while a failed write is tried again can leave parts of both attempts on the disk.
// The log then has all of the one, all of the other, or nothing.
func TestACrashBetweenTwoTriesOfAWrite(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	if err := s.StoreLogs(entries(1, 2, 'a', 50)); err != nil {
		t.Fatal(err)
	}
	failing(t, s, -1, func() error { return s.StoreLogs(entries(3, 6, 'b', 50)) })
	wantMarks(t, crashed(t, s), "aabbbb")
	size := recordSize(len(s.buffer.raw)/4 - recordHeader - 1)
	for writes := size / 2; writes < 4*size; writes += size / 2 {
		failing(t, s, writes, func() error { return s.StoreLogs(entries(3, 6, 'c', 50)) })
		wantMarks(t, crashed(t, s), "aa")
	}
}

// A batch whose write failed at the end of one file, and that was stored in the next file, is
// in the log once.
func TestAFailedWriteIsRetriedInTheNextFile(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	if err := s.StoreLogs(entries(1, 1, 'a', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	failing(t, s, -1, func() error { return s.StoreLogs(entries(2, 3, 'b', 50)) })
	if err := s.StoreLogs(entries(2, 2, 'c', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	if len(s.segments) != 2 {
		t.Fatalf("segments = %d, want 2", len(s.segments))
	}
	wantMarks(t, s, "ac")
	wantMarks(t, crashed(t, s), "ac")
}

// A failed write to a new file may be on the disk; what is stored afterwards is not taken for
// older data.
func TestAFailedWriteToANewFileIsNotTakenForOlderData(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	if err := errors.Join(s.SetUint64([]byte("term"), 1), s.StoreLogs(entries(1, 1, 'a', segmentSize/2)), s.ensureSpare(segmentSize)); err != nil {
		t.Fatal(err)
	}
	failingIn(t, s.spares[0], -1, func() error { return s.StoreLogs(entries(2, 2, 'b', segmentSize/2)) })
	wantMarks(t, crashed(t, s), "a")
	if err := s.StoreLogs(entries(2, 2, 'c', 50)); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, s, "ac")
	wantMarks(t, crashed(t, s), "ac")
}

// The oldest file that is left determines the batch with which the log continues.
func TestACrashBeforeTheFirstWriteToAFile(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	if err := errors.Join(s.StoreLogs(entries(1, 2, 'a', 50)), s.DeleteRange(1, 2), s.rotate(0), s.keep()); err != nil {
		t.Fatal(err)
	}
	if len(s.segments) != 1 {
		t.Fatalf("segments = %d, want 1", len(s.segments))
	}
	image := crashed(t, s)
	wantMarks(t, image, "")
	if image.next != s.next {
		t.Errorf("next batch = %d, want %d", image.next, s.next)
	}
}

// A file that is not in the list is not used.
func TestAListThatCannotBeWritten(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	inTheWay := filepath.Join(s.path, listName+".tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLogs(entries(1, 1, 'a', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.StoreLogs(entries(2, 2, 'b', segmentSize/2)); err == nil {
			t.Fatal("StoreLogs = nil, want an error")
		}
		wantMarks(t, s, "a")
	}
	// There is still room for removals, which free space, and for the term.
	if err := s.SetUint64([]byte("term"), 1); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, crashed(t, s), "a")
	if err := s.StoreLogs(entries(2, 2, 'c', segmentSize/2)); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, s, "ac")
	wantMarks(t, crashed(t, s), "ac")
}

// A file that was created for a small batch, and is not in the list yet, is too small for a
// large one.
func TestASpareFileThatIsTooSmallIsNotUsed(t *testing.T) {
	s := opened(t, t.TempDir())
	defer ended(t, s)
	inTheWay := filepath.Join(s.path, listName+".tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	stored(t, s, "a")
	if err := s.ensureSpare(segmentSize); err == nil || len(s.unlisted) != 1 {
		t.Fatalf("%d files are made: %v", len(s.unlisted), err)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLogs(entries(2, 2, 'b', 2*segmentSize)); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, crashed(t, s), "ab")
}

// A batch that is larger than a file gets a file of its own. The spare file that was created
// before is neither in the way nor lost.
func TestABatchThatIsLargerThanAFileGetsItsOwn(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	if err := errors.Join(s.SetUint64([]byte("term"), 1), s.StoreLogs(entries(1, 1, 'a', 50)), s.ensureSpare(segmentSize)); err != nil {
		t.Fatal(err)
	}
	for index, mark := range "bc" {
		if err := s.StoreLogs(entries(uint64(index+2), uint64(index+2), byte(mark), 2*segmentSize)); err != nil {
			t.Fatal(err)
		}
	}
	wantMarks(t, crashed(t, s), "abc")
	if err := errors.Join(s.DeleteRange(1, 2), s.keep()); err != nil {
		t.Fatal(err)
	}
	image := crashed(t, s)
	if first, last := image.places.bounds(); first != 3 || last != 3 {
		t.Errorf("bounds = %d and %d, want 3 and 3", first, last)
	}
	if term, err := image.GetUint64([]byte("term")); err != nil || term != 1 {
		t.Errorf("term = %d, %v, want 1", term, err)
	}
}

// A store whose log is truncated as raft does it stays small, however much is written.
func TestFilesOfRemovedEntriesAreRemoved(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	if err := s.SetUint64([]byte("term"), 7); err != nil {
		t.Fatal(err)
	}
	const last, size, kept = 400, 100_000, 20
	for index := uint64(1); index <= last; index++ {
		if err := s.StoreLogs(entries(index, index, 'a', size)); err != nil {
			t.Fatal(err)
		}
		if index%kept == 0 && index > kept {
			if err := errors.Join(s.DeleteRange(1, index-kept), s.keep()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if files, err := segmentFiles(s.path); err != nil || len(files) > 4 {
		t.Errorf("files = %q, %v, want at most 4", files, err)
	}
	if first, _ := s.places.bounds(); first != last-kept+1 {
		t.Errorf("FirstIndex = %d, want %d", first, last-kept+1)
	}
	if term, err := s.GetUint64([]byte("term")); err != nil || term != 7 {
		t.Errorf("term, which was in the first file, = %d, %v, want 7", term, err)
	}
}

// Files that could not be removed from the list are removed the next time.
func TestFilesThatCannotBeRemovedAreRemovedLater(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	for index := uint64(1); index <= 4; index++ {
		if err := s.StoreLogs(entries(index, index, byte('a'+index), segmentSize/2)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.keep(); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(s.path, listName+".tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := len(s.segments)
	if err := s.DeleteRange(1, 2); err != nil {
		t.Fatal(err)
	}
	if err := s.keep(); err == nil || len(s.segments) != before {
		t.Errorf("%v, and %d files of %d are left", err, len(s.segments), before)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := s.keep(); err != nil {
		t.Fatal(err)
	}
	if files, err := segmentFiles(s.path); err != nil || len(s.segments) != before-2 || len(files) != len(s.segments)+len(s.spares) {
		t.Errorf("files = %q, %v, want two fewer than before, in %d segments and %d spares", files, err, len(s.segments), len(s.spares))
	}
}
