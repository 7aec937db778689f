package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// A segment is a file of fixed size. It is created and filled with zeros before it is used,
// so that the first batch in it takes no longer than others. Numbers are little-endian:
//
//	magic, with the version of the format
//	id u64, size of the file u64, salt u64
//	checksum u32: CRC-32C of all that; 4 bytes of filler
//	batches, one after the other
//	zeros, or what a failed attempt to write a batch left
//
// The salt is random and goes into every checksum, so that nothing that was written to
// another file, or that an entry contains, is taken for a record.
const (
	magic         = "nmdwal\x00\x01"
	segmentHeader = 40
	segmentSuffix = ".wal"
	// segmentSize is the size of a segment, unless a large batch needs more. A small
	// size wastes little in the last segment, which is never removed, and leaves little
	// to read at the start; with a large size, segments are begun rarely.
	segmentSize = 2 << 20
	// reserve is the part of a segment that entries leave free for removals, the term and
	// the vote: these must be possible when a full disk has no room for another segment.
	reserve = 16 << 10
)

// file is the part of *os.File that a segment uses.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
}

// dataFile is a file that syncs its data, but not the timestamps in the inode.
type dataFile struct{ *os.File }

// Sync implements file.
func (f dataFile) Sync() error { return syncData(f.File) }

type segment struct {
	path string
	id   uint64
	size int64
	seed uint32 // of the checksums; from the salt
	file file

	end  int64 // of the last batch
	live int   // entries in it that are not removed

	// fileMu is held for reading while file is read, so that close waits.
	fileMu sync.RWMutex
	// lastRead is the part that was read last, from which the next read may be answered.
	lastRead atomic.Pointer[chunk]
}

// chunk is a part of a segment before its end, where nothing changes. raw is nil if only a
// single record was read.
type chunk struct {
	at, end int64
	raw     []byte
}

// holds returns the bytes at a place, if they are in c.
func (c *chunk) holds(in place) ([]byte, bool) {
	from := int64(in.at) - c.at
	if from < 0 || from+int64(in.size) > int64(len(c.raw)) {
		return nil, false
	}
	return c.raw[from:][:in.size], true
}

func segmentPath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016d%s", id, segmentSuffix))
}

// createSegment creates a segment file that is durable and needs no more room on the disk
// to be filled.
func createSegment(dir string, id uint64, size int64) (s *segment, err error) {
	path := segmentPath(dir, id)
	if err := logstore.CheckRoom(dir, 0, uint64(size)); err != nil {
		return nil, err
	}
	opened, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, noRoom(err, dir, size)
	}
	defer func() {
		if err != nil {
			err = errors.Join(noRoom(err, dir, size), opened.Close(), os.Remove(path))
		}
	}()
	salt := rand.Uint64()
	// Written zeros, not a hole or preallocated blocks: overwriting them changes no
	// metadata of the file system, which would have to be synced as well.
	if err := fill(opened, 0, size); err != nil {
		return nil, err
	}
	if _, err := opened.WriteAt(headerOf(id, uint64(size), salt), 0); err != nil {
		return nil, err
	}
	if err := opened.Sync(); err != nil {
		return nil, err
	}
	if err := logstore.SyncDir(dir); err != nil {
		return nil, err
	}
	return &segment{
		path: path, id: id, size: size, seed: seedOf(salt),
		file: dataFile{opened}, end: segmentHeader,
	}, nil
}

func headerOf(id, size, salt uint64) []byte {
	header := append(make([]byte, 0, segmentHeader), magic...)
	for _, number := range []uint64{id, size, salt} {
		header = binary.LittleEndian.AppendUint64(header, number)
	}
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, castagnoli))
	return append(header, filler, filler, filler, filler)
}

// noRoom turns the error of a full disk, or of an exhausted quota, into a
// *logstore.NoRoomError, and returns any other error as it is.
func noRoom(err error, dir string, needed int64) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return &logstore.NoRoomError{Directory: dir, Needed: uint64(needed)}
}

// fill writes zeros from the offset from up to end.
func fill(to io.WriterAt, from, end int64) error {
	zeros := make([]byte, min(end-from, 256<<10))
	for from < end {
		count, err := to.WriteAt(zeros[:min(end-from, int64(len(zeros)))], from)
		if err != nil {
			return err
		}
		from += int64(count)
	}
	return nil
}

func seedOf(salt uint64) uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(nil, salt), castagnoli)
}

// openSegment opens an existing segment file, and returns its contents as well.
func openSegment(dir string, id uint64, flag int) (*segment, []byte, error) {
	path := segmentPath(dir, id)
	opened, err := os.OpenFile(path, flag, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w (%s is missing)", ErrDamaged, path)
	}
	if err != nil {
		return nil, nil, err
	}
	raw, err := readAll(opened)
	if err == nil {
		var s *segment
		if s, err = parseHeader(raw); err == nil && s.id == id {
			s.path, s.file = path, dataFile{opened}
			return s, raw, nil
		}
		err = fmt.Errorf("%w (%s: its beginning makes no sense, or it is cut off)", ErrDamaged, path)
	}
	return nil, nil, errors.Join(err, opened.Close())
}

// readAll returns the contents of a file without moving its offset.
func readAll(opened *os.File) ([]byte, error) {
	info, err := opened.Stat()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, info.Size())
	if _, err := opened.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return raw, nil
}

var errHeader = errors.New("no header of a segment")

// parseHeader reads the header of a segment whose file has these contents. It refuses a
// file that is not as long as its header says.
func parseHeader(raw []byte) (*segment, error) {
	if len(raw) < segmentHeader || !bytes.HasPrefix(raw, []byte(magic)) {
		return nil, errHeader
	}
	const sum = segmentHeader - 8
	if crc32.Checksum(raw[:sum], castagnoli) != binary.LittleEndian.Uint32(raw[sum:]) {
		return nil, errHeader
	}
	number := func(at int) uint64 { return binary.LittleEndian.Uint64(raw[len(magic)+8*at:]) }
	s := &segment{id: number(0), size: int64(number(1)), seed: seedOf(number(2)), end: segmentHeader}
	if s.size != int64(len(raw)) {
		return nil, errHeader
	}
	return s, nil
}

// write writes raw at the end of the segment and makes it durable. The caller moves end.
func (s *segment) write(raw []byte) error {
	if _, err := s.file.WriteAt(raw, s.end); err != nil {
		return err
	}
	return s.file.Sync()
}

// read returns the record at a place. It reads nothing at or after end, which is where the
// last durable batch of the segment ends.
func (s *segment) read(in place, end int64) (record, error) {
	raw, err := s.bytes(in, end)
	if err != nil {
		return record{}, err
	}
	found, ok := readRecord(raw, s.seed)
	if !ok {
		return record{}, fmt.Errorf("%w (%s: unreadable at byte %d)", ErrDamaged, s.path, in.at)
	}
	return found, nil
}

// readAhead is how many bytes are read at once when consecutive records are read, as is
// done with the whole log at a start: a system call for each record takes longer than
// everything else.
const readAhead = 64 << 10

// bytes returns what is at a place. The caller may keep and change the result.
func (s *segment) bytes(in place, end int64) ([]byte, error) {
	at, size := int64(in.at), int64(in.size)
	before := s.lastRead.Load()
	if before != nil {
		if raw, ok := before.holds(in); ok {
			return bytes.Clone(raw), nil
		}
		if before.at < at && at <= before.end {
			size = max(size, min(readAhead, end-at))
		}
	}
	raw := make([]byte, size)
	count, err := s.file.ReadAt(raw, at)
	if count < int(in.size) && err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	wanted := raw[:in.size]
	if count <= len(wanted) {
		s.lastRead.Store(&chunk{at: at, end: at + int64(len(wanted))})
		return wanted, nil
	}
	s.lastRead.Store(&chunk{at: at, end: at + int64(count), raw: raw[:count]})
	return bytes.Clone(wanted), nil
}

// close closes the file, after the reads in flight.
func (s *segment) close() error {
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	return s.file.Close()
}
