package wal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// endless overwrites a file with zeros, from the data of an entry to the end.
func endless(t *testing.T, path string, mark byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, bytes.Repeat([]byte{mark}, 50))
	if at < 0 {
		t.Fatalf("%s has no %q", path, mark)
	}
	clear(raw[at:])
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stopped returns a directory after an orderly stop. Its log has an entry for each mark, each
// stored by itself.
func stopped(t *testing.T, marks string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := opened(t, dir)
	stored(t, s, marks)
	ended(t, s)
	return dir
}

// stored appends an entry for each mark.
func stored(t *testing.T, s *store, marks string) {
	t.Helper()
	_, last := s.places.bounds()
	for _, mark := range []byte(marks) {
		last++
		if err := s.StoreLogs(entries(last, last, mark, 50)); err != nil {
			t.Fatal(err)
		}
	}
}

func ended(t *testing.T, s *store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// tail returns the path of the last file of the log.
func tail(t *testing.T, dir string) string {
	t.Helper()
	paths, err := segmentFiles(filepath.Join(dir, dirName))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no log in %s (%v)", dir, err)
	}
	return paths[len(paths)-1]
}

func wantDamaged(t *testing.T, dir string) {
	t.Helper()
	for _, open := range []logstore.Opener{Open, Inspect} {
		s, err := open(dir, nil)
		if err == nil {
			last, _ := s.LastIndex()
			_ = s.Close()
			t.Fatalf("Open succeeded with last index %d, want an error", last)
		}
		if !errors.Is(err, logstore.ErrDamaged) || !strings.Contains(err.Error(), filepath.Join(dir, dirName)) {
			t.Errorf("Open = %v, want ErrDamaged naming the store", err)
		}
	}
}

func wantReopened(t *testing.T, dir, marks string) {
	t.Helper()
	s := opened(t, dir)
	wantMarks(t, s, marks)
	ended(t, s)
}

// A log that lost its end after an orderly stop is not taken for one with an unfinished
// write, although the record of the orderly stop is lost with the end.
func TestALogThatLostItsEndIsDamaged(t *testing.T) {
	t.Run("after an orderly stop", func(t *testing.T) {
		for _, mark := range []byte("abcd") {
			dir := stopped(t, "abcd")
			endless(t, tail(t, dir), mark)
			wantDamaged(t, dir)
		}
	})
	t.Run("with all its entries", func(t *testing.T) {
		dir := stopped(t, "abcd")
		if err := os.Truncate(tail(t, dir), segmentHeader); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(tail(t, dir), segmentSize); err != nil {
			t.Fatal(err)
		}
		wantDamaged(t, dir)
	})
	t.Run("after an orderly stop, and a start that stored nothing", func(t *testing.T) {
		dir := stopped(t, "abcd")
		wantReopened(t, dir, "abcd")
		endless(t, tail(t, dir), 'c')
		wantDamaged(t, dir)
	})
	t.Run("after an orderly stop, and a crash later on", func(t *testing.T) {
		dir := stopped(t, "abcd")
		s := opened(t, dir)
		stored(t, s, "ef")
		image := imageOf(t, s)
		ended(t, s)
		endless(t, tail(t, image), 'd')
		wantDamaged(t, image)
	})
	t.Run("after a start that recovered from a crash", func(t *testing.T) {
		live := opened(t, t.TempDir())
		stored(t, live, "abcd")
		s := opened(t, imageOf(t, live))
		ended(t, live)
		if err := s.keep(); err != nil {
			t.Fatal(err)
		}
		stored(t, s, "ef")
		image := imageOf(t, s)
		ended(t, s)
		endless(t, tail(t, image), 'd')
		wantDamaged(t, image)
	})
	t.Run("after the next file was begun, or made", func(t *testing.T) {
		s := opened(t, t.TempDir())
		stored(t, s, "abcd")
		if err := s.ensureSpare(segmentSize); err != nil {
			t.Fatal(err)
		}
		stored(t, s, "ef")
		image := imageOf(t, s)
		ended(t, s)
		endless(t, filepath.Join(image, dirName, filepath.Base(segmentPath("", 1))), 'd')
		wantDamaged(t, image)
	})
	t.Run("if the list does not say how far the log reached", func(t *testing.T) {
		s := opened(t, t.TempDir())
		stored(t, s, "abcd")
		image := imageOf(t, s)
		ended(t, s)
		endless(t, tail(t, image), 'c')
		wantReopened(t, image, "ab")
	})
}

// imageOf copies the files as they are now.
func imageOf(t *testing.T, live *store) string {
	t.Helper()
	image := t.TempDir()
	live.filesMu.Lock() // a file that is removed meanwhile can't be copied
	defer live.filesMu.Unlock()
	if err := os.CopyFS(image, os.DirFS(filepath.Dir(live.path))); err != nil {
		t.Fatal(err)
	}
	return image
}

// A build that does not know list.Reaches writes a list without it, or appends to the log and
// keeps the list that it found: both logs are opened.
func TestALogOfAnEarlierBuildIsOpened(t *testing.T) {
	earlier := func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, dirName)
		l, _, err := readList(path)
		if err != nil {
			t.Fatal(err)
		}
		l.Reaches = 0
		if err := l.write(path); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("it is opened as it was", func(t *testing.T) {
		dir := stopped(t, "abcd")
		earlier(t, dir)
		wantReopened(t, dir, "abcd")
	})
	t.Run("the rest of its last write is dropped", func(t *testing.T) {
		s := opened(t, t.TempDir())
		stored(t, s, "abcd")
		image := imageOf(t, s)
		ended(t, s)
		earlier(t, image)
		endless(t, tail(t, image), 'd')
		wantReopened(t, image, "abc")
	})
	t.Run("its last file lost its beginning, and not the rest", func(t *testing.T) {
		s := grown(t, t.TempDir())
		image := imageOf(t, s)
		path, end := segmentPath(filepath.Join(image, dirName), s.tail.id), s.tail.end
		ended(t, s)
		earlier(t, image)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw[segmentHeader]++
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if end < segmentSize/2 {
			t.Fatal("the file has no data after its beginning, so the test shows nothing")
		}
		wantDamaged(t, image)
	})
	t.Run("its oldest file is unreadable, and those before it are gone", func(t *testing.T) {
		s := grown(t, t.TempDir())
		if err := s.DeleteRange(1, 3); err != nil {
			t.Fatal(err)
		}
		until(t, "three files go", func() bool { return s.files(t) <= 2 })
		image := imageOf(t, s)
		path := segmentPath(filepath.Join(image, dirName), s.tail.id)
		ended(t, s)
		earlier(t, image)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		clear(raw[segmentHeader:])
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		wantDamaged(t, image)
	})
	t.Run("its list differs from that of this build only by Reaches", func(t *testing.T) {
		dir := stopped(t, "abcd")
		raw, err := os.ReadFile(filepath.Join(dir, dirName, listName))
		// All fields that earlier builds read are the same, and so is their checksum.
		const want = `{"format":1,"first":1,"last":1,"checksum":"b768e4c6","reaches":6,"reaches_checksum":"d119df2b"}` + "\n"
		if err != nil || string(raw) != want {
			t.Errorf("list = %s, %v, want %s", raw, err, want)
		}
		earlier(t, dir)
		raw, err = os.ReadFile(filepath.Join(dir, dirName, listName))
		if want := `{"format":1,"first":1,"last":1,"checksum":"b768e4c6"}` + "\n"; err != nil || string(raw) != want {
			t.Errorf("list = %s, %v, want %s", raw, err, want)
		}
	})
}

// If any byte of the list changes, the list is refused, or the whole log is there.
func TestEverySpoiltByteOfTheListIsFound(t *testing.T) {
	dir := stopped(t, "abcd")
	path := filepath.Join(dir, dirName, listName)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range raw {
		for bit := range 8 {
			spoilt := bytes.Clone(raw)
			spoilt[at] ^= 1 << bit
			if err := os.WriteFile(path, spoilt, 0o600); err != nil {
				t.Fatal(err)
			}
			l, _, err := readList(filepath.Dir(path))
			if err == nil && (l.First != 1 || l.Last != 1 || l.Reaches != 6) {
				t.Errorf("byte %d: %s", at, spoilt)
			}
		}
	}
}

// A stop that fails at any step, or is ended by a crash, does not make a sound log a damaged
// one.
func TestAFailedStopLeavesASoundLog(t *testing.T) {
	t.Run("the list can't be written", func(t *testing.T) {
		dir := t.TempDir()
		s := opened(t, dir)
		stored(t, s, "abcd")
		inTheWay := filepath.Join(s.path, listName+".tmp")
		if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		s = opened(t, dir)
		wantMarks(t, s, "abcd")
		if !s.marked || s.listed.Reaches != 0 {
			t.Errorf("marked: %v, and the list reaches %d", s.marked, s.listed.Reaches)
		}
		stored(t, s, "e")
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		wantReopened(t, dir, "abcde")
		endless(t, tail(t, dir), 'b')
		wantDamaged(t, dir)
	})
	t.Run("the list is half written", func(t *testing.T) {
		dir := stopped(t, "abcd")
		if err := os.WriteFile(filepath.Join(dir, dirName, listName+".tmp"), []byte(`{"format":1,"fi`), 0o600); err != nil {
			t.Fatal(err)
		}
		wantReopened(t, dir, "abcd")
	})
	for _, writes := range []int{-1, 0, 10} {
		t.Run("the end can't be marked in the log", func(t *testing.T) {
			dir := t.TempDir()
			s := opened(t, dir)
			stored(t, s, "abcd")
			s.tail.file = &faulty{file: s.tail.file, writes: writes}
			ended(t, s)
			// A crash loses what was not synced.
			raw, err := os.ReadFile(tail(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			clear(raw[s.tail.end:])
			if err := os.WriteFile(tail(t, dir), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			wantReopened(t, dir, "abcd")
		})
	}
}

// The list never covers a batch that was not synced, even if the batch can be read.
func TestTheListCoversOnlyDurableBatches(t *testing.T) {
	t.Run("a write that fails", func(t *testing.T) {
		s := opened(t, t.TempDir())
		defer func() { _ = s.Close() }()
		stored(t, s, "ab")
		failing(t, s, -1, func() error { return s.StoreLogs(entries(3, 3, 'c', 50)) })
		if err := s.ensureSpare(segmentSize); err != nil {
			t.Fatal(err)
		}
		image := imageOf(t, s)
		wantReopened(t, image, "abc") // its bytes are there
		image = imageOf(t, s)
		endless(t, filepath.Join(image, dirName, filepath.Base(s.tail.path)), 'c')
		wantReopened(t, image, "ab")
	})
	t.Run("a start after a sync that failed", func(t *testing.T) {
		s := opened(t, t.TempDir())
		defer func() { _ = s.Close() }()
		stored(t, s, "ab")
		before := s.tail.end
		stored(t, s, "c")
		image := imageOf(t, s)
		raw, err := os.ReadFile(tail(t, image))
		if err != nil {
			t.Fatal(err)
		}
		want := raw[before:s.tail.end]
		path := filepath.Join(image, dirName)
		listed, _, err := readList(path)
		if err != nil {
			t.Fatal(err)
		}
		found, err := replayAll(path, listed, os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = found.close() }()
		last := found.segments[len(found.segments)-1]
		noted := &notes{file: last.file}
		last.file = noted
		if err := found.rewriteLast(listed); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(noted.durable, want) || noted.at != before {
			t.Errorf("synced %d bytes at %d, want %d at %d", len(noted.durable), noted.at, len(want), before)
		}
	})
	t.Run("a start", func(t *testing.T) {
		s := opened(t, t.TempDir())
		defer func() { _ = s.Close() }()
		stored(t, s, "ab")
		listed, _, err := readList(s.path)
		if err != nil {
			t.Fatal(err)
		}
		found, err := replayAll(s.path, listed, os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = found.close() }()
		last := found.segments[len(found.segments)-1]
		last.file = &faulty{file: last.file, writes: -1}
		if err := found.rewriteLast(listed); !errors.Is(err, errBroken) {
			t.Errorf("error when the last batch cannot be synced = %v, want %v", err, errBroken)
		}
		listed.Reaches = found.next - 1
		if err := found.rewriteLast(listed); err != nil {
			t.Errorf("error when the list covers the last batch = %v, want no sync", err)
		}
	})
}

// notes records what was written last, and whether that was synced.
type notes struct {
	file
	at               int64
	written, durable []byte
}

func (n *notes) WriteAt(raw []byte, at int64) (int, error) {
	n.at, n.written = at, bytes.Clone(raw)
	return n.file.WriteAt(raw, at)
}

func (n *notes) Sync() error {
	n.durable = n.written
	return n.file.Sync()
}

// lossy is a file that loses what was not synced when the power fails.
type lossy struct {
	file
	path string
	kept []byte // what is durable
}

func newLossy(t *rapid.T, in *segment) *lossy {
	kept, err := os.ReadFile(in.path)
	if err != nil {
		t.Fatal(err)
	}
	return &lossy{file: in.file, path: in.path, kept: kept}
}

func (l *lossy) Sync() error {
	if err := l.file.Sync(); err != nil {
		return err
	}
	var err error
	l.kept, err = os.ReadFile(l.path)
	return err
}

// Whenever the power fails, and whatever failed before, the log can be opened, and has
// everything that was acknowledged.
func TestNoCrashDamagesALog(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		open := func() *store {
			s, err := Open(dir, nil)
			if err != nil {
				t.Fatalf("Open after a crash = %v, want success", err)
			}
			return s.(*store)
		}
		s := open()
		acked, unsure := uint64(0), false
		write := func(size int) error {
			return s.StoreLogs([]*raft.Log{{Index: acked + 1, Term: 1, Data: make([]byte, size)}})
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"store", "large", "fail", "keep", "prepare", "stop", "crash"}).Draw(t, "step") {
			case "store":
				if err := write(50); err != nil {
					t.Fatal(err)
				}
				acked, unsure = acked+1, false
			case "large":
				if err := write(segmentSize / 3); err != nil {
					t.Fatal(err)
				}
				acked, unsure = acked+1, false
			case "fail":
				in := s.tail
				sound := in.file
				in.file = &faulty{file: sound, writes: rapid.IntRange(-1, 120).Draw(t, "writes")}
				unsure = write(50) != nil
				in.file = sound
				if !unsure {
					acked++ // it went to the next file
				}
			case "keep":
				if err := s.keep(); err != nil {
					t.Fatal(err)
				}
			case "prepare":
				if err := s.ensureSpare(segmentSize); err != nil {
					t.Fatal(err)
				}
			case "stop":
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open()
			case "crash":
				tail := newLossy(t, s.tail)
				s.filesMu.Lock()
				s.tail.file = tail
				s.filesMu.Unlock()
				torn := rapid.Bool().Draw(t, "torn")
				if torn {
					// A write in progress, of which nothing is synced.
					s.tail.file = &faulty{file: tail, writes: rapid.IntRange(0, 200).Draw(t, "of it")}
					_ = write(100)
				}
				s.inspected = true // no orderly stop
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if torn && rapid.Bool().Draw(t, "forgotten") {
					if err := os.WriteFile(tail.path, tail.kept, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				s = open()
				unsure = unsure || torn
			}
			first, last := s.places.bounds()
			if last < acked || last > acked+1 || last > acked && !unsure || acked > 0 && first != 1 {
				t.Fatalf("bounds = %d and %d, want 1 and %d, the last acknowledged entry", first, last, acked)
			}
			acked = last
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A process may be killed after it has renamed a list into place and before that is durable.
// The next process must not write to files that the previous list does not name.
func TestARenamedListIsMadeDurableBeforeItIsUsed(t *testing.T) {
	dir := stopped(t, "abcd")
	path := filepath.Join(dir, dirName)
	logstoretest.Unlisted(t, path, func() {
		if _, err := prepareDir(dir, path); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("prepareDir = %v, want a list that cannot be made durable to be refused", err)
		}
	})
	wantReopened(t, dir, "abcd")
}
