package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// counted is a file that counts its reads, and fails reads that reach beyond a byte.
type counted struct {
	file
	reads  int
	broken int64 // from here on; zero: nowhere
}

func (c *counted) ReadAt(raw []byte, at int64) (int, error) {
	c.reads++
	if c.broken == 0 || at+int64(len(raw)) <= c.broken {
		return c.file.ReadAt(raw, at)
	}
	count, err := c.file.ReadAt(raw[:max(0, c.broken-at)], at)
	return count, errors.Join(err, &fs.PathError{Op: "read", Path: "x", Err: errBroken})
}

// demand reads an entry and checks that its data consists of the mark.
func demand(t *testing.T, s *store, index uint64, mark byte) {
	t.Helper()
	var log raft.Log
	if err := s.GetLog(index, &log); err != nil {
		t.Fatalf("entry %d: %v", index, err)
	}
	if log.Index != index || log.Data[0] != mark || log.Data[len(log.Data)-1] != mark {
		t.Fatalf("entry %d = entry %d with %q", index, log.Index, log.Data)
	}
	clear(log.Data) // the data belongs to the caller
}

// Consecutive entries are read many at a time, and each is returned as it was stored.
func TestConsecutiveEntriesAreReadAhead(t *testing.T) {
	const size, count = 1000, 500
	s := opened(t, t.TempDir())
	defer ended(t, s)
	for index := uint64(1); index <= count; index++ {
		if err := s.StoreLogs(entries(index, index, byte(index), size)); err != nil {
			t.Fatal(err)
		}
	}
	in := &counted{file: s.tail.file}
	s.tail.file = in
	for range 2 {
		in.reads = 0
		for index := uint64(1); index <= count; index++ {
			demand(t, s, index, byte(index))
		}
		if most := 2 + count*(size+100)/readAhead; in.reads > most {
			t.Errorf("reads of %d entries = %d, want at most %d", count, in.reads, most)
		}
	}
	in.reads = 0
	for index := uint64(count); index > 0; index -= 100 {
		demand(t, s, index, byte(index))
		demand(t, s, index, byte(index))
	}
	if in.reads < 5 || s.tail.lastRead.Load().raw != nil {
		t.Errorf("reads of scattered entries = %d, want at least 5 and none ahead", in.reads)
	}
}

// Reading ahead stops at the end of the last batch: after it lies what a failed write left,
// which the next write overwrites.
func TestReadingAheadStopsAtTheLastBatch(t *testing.T) {
	s := opened(t, t.TempDir())
	defer ended(t, s)
	stored(t, s, "abc")
	failing(t, s, -1, func() error { return s.StoreLogs(entries(4, 4, 'x', 50)) })
	demand(t, s, 1, 'a')
	demand(t, s, 2, 'b') // and what follows
	if ahead := s.tail.lastRead.Load(); ahead.end != s.tail.end || len(ahead.raw) == 0 {
		t.Fatalf("read ahead to byte %d, want at most %d, the end of the last batch", ahead.end, s.tail.end)
	}
	stored(t, s, "de")
	for index, mark := range []byte("abcde") {
		demand(t, s, uint64(index+1), mark)
	}
	if err := s.DeleteRange(3, 5); err != nil {
		t.Fatal(err)
	}
	stored(t, s, "CDE")
	for index, mark := range []byte("abCDE") {
		demand(t, s, uint64(index+1), mark)
	}
}

// Damage and read errors affect only the entries that they hit.
func TestAnErrorWhileReadingAheadAffectsOnlyItsEntries(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(s *store, in *counted, at int64) error
		is     error
	}{
		"damage": {func(s *store, in *counted, at int64) error {
			_, err := in.WriteAt([]byte{'!'}, at+recordHeader+20)
			return err
		}, ErrDamaged},
		"a broken disk": {func(_ *store, in *counted, at int64) error {
			in.broken = at + 10
			return nil
		}, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			s := opened(t, t.TempDir())
			defer ended(t, s)
			stored(t, s, "abcd")
			in := &counted{file: s.tail.file}
			s.tail.file = in
			if err := test.damage(s, in, int64(s.places.all[2].at)); err != nil {
				t.Fatal(err)
			}
			demand(t, s, 1, 'a')
			demand(t, s, 2, 'b')
			if err := s.GetLog(3, new(raft.Log)); !errors.Is(err, test.is) {
				t.Errorf("GetLog of the entry that cannot be read = %v, want %v", err, test.is)
			}
			in.broken = 0
			demand(t, s, 4, 'd')
		})
	}
}

func TestTrimZerosRemovesTrailingZeros(t *testing.T) {
	const block = len(zeros)
	for _, before := range []int{0, 1, 7, block - 1, block, block + 1, 3*block + 5} {
		for _, behind := range []int{0, 1, block - 1, block, block + 1, 2*block + 3, 5 * block} {
			kept := bytes.Repeat([]byte{0, 1}, before)
			if got := trimZeros(append(bytes.Clone(kept), make([]byte, behind)...)); !bytes.Equal(got, kept) {
				t.Errorf("bytes left of %d before %d zeros = %d, want %d", len(kept), behind, len(got), len(kept))
			}
		}
	}
}

// An instance reads its log in order when it starts.
func BenchmarkGetLog(b *testing.B) {
	for _, order := range []struct {
		name string
		step uint64
	}{{"in order", 1}, {"here and there", 389}} {
		b.Run(order.name, func(b *testing.B) {
			dir := b.TempDir()
			store, err := Open(dir, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := store.Close(); err != nil {
					b.Error(filepath.Join(dir, dirName), err)
				}
			}()
			const count = 4096
			if err := store.StoreLogs(entries(1, count, 'a', 100)); err != nil {
				b.Fatal(err)
			}
			index := uint64(0)
			for b.Loop() {
				if err := store.GetLog(index%count+1, new(raft.Log)); err != nil {
					b.Fatal(fmt.Errorf("entry %d: %w", index%count+1, err))
				}
				index += order.step
			}
		})
	}
}
