package wal

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// until waits until the keeper has made a condition hold.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within the deadline: %s", what)
		}
	}
}

func (s *store) files(t *testing.T) int {
	t.Helper()
	files, err := segmentFiles(s.path)
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// grown returns a store with a log of four files, each with one entry.
func grown(t *testing.T, dir string) *store {
	t.Helper()
	s := opened(t, dir)
	for index := uint64(1); index <= 4; index++ {
		if err := s.StoreLogs(entries(index, index, byte('a'+index), segmentSize*3/4)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// The keeper works without being called.
func TestTheKeeperWorksInTheBackground(t *testing.T) {
	t.Run("files of removed entries are removed", func(t *testing.T) {
		s := grown(t, t.TempDir())
		defer ended(t, s)
		until(t, "a file is made beforehand", func() bool { return s.files(t) == 5 })
		if err := s.DeleteRange(1, 3); err != nil {
			t.Fatal(err)
		}
		until(t, "three files go", func() bool { return s.files(t) == 2 })
	})
	t.Run("files of overwritten entries are removed", func(t *testing.T) {
		s := grown(t, t.TempDir())
		defer ended(t, s)
		if err := s.StoreLogs(entries(1, 3, 'z', 50)); err != nil {
			t.Fatal(err)
		}
		until(t, "three files go", func() bool { return s.files(t) == 2 })
		for index, mark := range []byte{'z', 'z', 'z', 'a' + 4} {
			demand(t, s, uint64(index+1), mark)
		}
	})
	t.Run("files that a crash has left are removed", func(t *testing.T) {
		s := grown(t, t.TempDir())
		until(t, "a file is made beforehand", func() bool { return s.files(t) == 5 })
		inTheWay := filepath.Join(s.path, listName+".tmp")
		if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteRange(1, 3); err != nil {
			t.Fatal(err)
		}
		image := imageOf(t, s)
		if err := errors.Join(os.RemoveAll(inTheWay), os.RemoveAll(filepath.Join(image, dirName, listName+".tmp"))); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		after := opened(t, image)
		defer ended(t, after)
		until(t, "three files go", func() bool { return after.files(t) == 2 })
	})
	t.Run("the list knows how far the log reached when it was opened", func(t *testing.T) {
		s := opened(t, t.TempDir())
		defer ended(t, s)
		stored(t, s, "abc")
		image := imageOf(t, s)
		after := opened(t, image)
		defer ended(t, after)
		until(t, "the list is written", func() bool {
			listed, _, err := readList(after.path)
			return err == nil && listed.Reaches == after.lastAtOpen
		})
	})
}

// Remains of a write that a crash interrupted must not be taken for part of the batch that
// overwrites them, which has the same number.
func TestAStartErasesWhatFollowsTheEnd(t *testing.T) {
	s := opened(t, t.TempDir())
	defer func() { _ = s.Close() }()
	stored(t, s, "ab")
	failing(t, s, 150, func() error { return s.StoreLogs(entries(3, 5, 'x', 50)) })
	dir := imageOf(t, s)
	beyond := segmentPath(filepath.Join(dir, dirName), s.listed.Last+1)
	if err := os.WriteFile(beyond, []byte("made, and in no list"), 0o600); err != nil {
		t.Fatal(err)
	}
	after := opened(t, dir)
	defer ended(t, after)
	wantMarks(t, after, "ab")
	raw, err := os.ReadFile(after.tail.path)
	if err != nil {
		t.Fatal(err)
	}
	if rest := len(trimZeros(raw)); int64(rest) != after.tail.end {
		t.Errorf("the file ends at byte %d, want %d, the end of the log", rest, after.tail.end)
	}
	if after.files(t) != 1 {
		t.Errorf("files = %d, want 1", after.files(t))
	}
}

// blocking is a file whose reads wait until they are told to proceed.
type blocking struct {
	file
	begun, proceed chan struct{}
}

func (b *blocking) ReadAt(raw []byte, at int64) (int, error) {
	b.begun <- struct{}{}
	<-b.proceed
	return b.file.ReadAt(raw, at)
}

// A reader gets an entry that is removed meanwhile, and not an error because the file is
// closed: raft ends the instance if it can't read an entry.
func TestAFileIsNotClosedWhileItIsRead(t *testing.T) {
	s := opened(t, t.TempDir())
	defer ended(t, s)
	stored(t, s, "a")
	in := s.tail
	slow := &blocking{in.file, make(chan struct{}), make(chan struct{})}
	in.file = slow
	read := make(chan error, 1)
	go func() { read <- s.GetLog(1, new(raft.Log)) }()
	<-slow.begun
	if in.fileMu.TryLock() {
		t.Error("closing the file would not wait for its reader")
		in.fileMu.Unlock()
	}
	close(slow.proceed)
	if err := <-read; err != nil {
		t.Error(err)
	}
	in.file = slow.file
}

// held is a log that takes no line about the keeper until it is closed.
type held chan struct{}

func (h held) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("could not be prepared")) {
		<-h
	}
	return len(line), nil
}

func TestCloseWaitsForTheKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := make(held)
		dir := t.TempDir()
		s, err := Open(dir, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		if err != nil {
			t.Fatal(err)
		}
		inTheWay := filepath.Join(dir, dirName, listName+".tmp")
		if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.StoreLogs(entries(1, 1, 'a', segmentSize*3/4)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the keeper has not made the next file, and says so
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Errorf("Close returned while the keeper was running: %v", err)
			close(log)
		default:
			close(log)
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
	})
}

// A full disk has no room for another file: removals, which free space, must fit in this one.
func TestEntriesLeaveRoomForRemovals(t *testing.T) {
	s := opened(t, t.TempDir())
	defer ended(t, s)
	fill := func() (last uint64) {
		for index := uint64(1); ; index++ {
			if err := s.StoreLogs(entries(index, index, 'a', 1000)); err != nil {
				return index - 1
			}
		}
	}
	until(t, "a file is made beforehand", func() bool {
		if err := s.keep(); err != nil {
			t.Fatal(err)
		}
		return !s.wantsSpare()
	})
	// Creating the next file fails, because something else is in its place.
	next := segmentPath(s.path, s.listed.Last+1)
	if err := os.MkdirAll(filepath.Join(next, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	last := fill()
	if left := s.tail.size - s.tail.end; last == 0 || left < reserve || left > reserve+2000 {
		t.Errorf("bytes left after %d entries = %d, want %d to %d", last, left, reserve, reserve+2000)
	}
	if free := s.free(); free > 2000 {
		t.Errorf("and %d bytes of it are called free", free)
	}
	for term := range uint64(100) {
		if err := errors.Join(s.SetUint64([]byte("term"), term), s.DeleteRange(term+1, term+1)); err != nil {
			t.Fatalf("in term %d: %v", term, err)
		}
	}
	if err := os.RemoveAll(next); err != nil {
		t.Fatal(err)
	}
}

// wantsSpare reports whether the keeper has to create a file.
func (s *store) wantsSpare() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.spares) == 0 && s.tail.end > s.tail.size/2
}
