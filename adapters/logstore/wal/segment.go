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

// A segment is a file of fixed size, made and filled with zeros before it is used, so
// that the first batch in it takes no more than others; numbers are little-endian:
//
//	magic, with the version of the format
//	id u64, size of the file u64, salt u64
//	checksum u32: CRC-32C of all that; 4 bytes of filler
//	batches, one behind the other
//	zeros, or what is left of a try to write a batch that failed
//
// The salt is random and in every checksum, so that nothing that was written
// elsewhere, or that an entry holds, is taken for a record.
const (
	magic         = "nmdwal\x00\x01"
	segmentHeader = 40
	segmentSuffix = ".wal"
	// segmentSize is that of a file which no large batch needs to be larger. While it
	// is small, little is lost with the last segment, which is never removed, and little
	// is read at the start; while it is large, one is rarely begun.
	segmentSize = 2 << 20
	// reserve is what entries leave of a segment to what makes room, and to the term
	// and the vote: a full disk has none for another segment.
	reserve = 16 << 10
)

// file is what is used of an *os.File.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
}

// dataFile syncs without the times in the inode.
type dataFile struct{ *os.File }

// Sync implements file.
func (f dataFile) Sync() error { return syncData(f.File) }

type segment struct {
	path string
	id   uint64
	size int64
	seed uint32 // for checksums
	file file

	end  int64 // of the last batch
	live int   // entries in it that are not removed

	// fileMu is held for reading by who reads from the file, so that nobody closes it.
	fileMu sync.RWMutex
	// lastRead is what was read last.
	lastRead atomic.Pointer[chunk]
}

// chunk is a part of a segment, before its end: what is there does not change. Of one
// that was read for a single record only the bounds are known.
type chunk struct {
	at, end int64
	raw     []byte
}

// holds gives the bytes at a place, if they are in c.
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

// createSegment makes a file that is durable and can be filled without more room.
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
	// Zeros, and not a hole or blocks that were never written: what takes their place
	// is durable by what is written alone.
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

// noRoom tells a disk that is full, or of which there is no more for this user, from others.
func noRoom(err error, dir string, needed int64) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return &logstore.NoRoomError{Directory: dir, Needed: uint64(needed)}
}

// fill writes zeros.
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

// openSegment opens a file that is there, and gives what is in it.
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

// readAll does not use up the file's own position.
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

// parseHeader accepts a file that is as long as it was made.
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

// write appends what is durable when it returns nil. The caller moves end.
func (s *segment) write(raw []byte) error {
	if _, err := s.file.WriteAt(raw, s.end); err != nil {
		return err
	}
	return s.file.Sync()
}

// read gives the record at a place before end, where the last batch of the segment ends
// that may be read.
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

// readAhead is how much is read at once for who reads one record after the other, as it
// is done with all of them at a start: a system call for each takes longer than all else.
const readAhead = 64 << 10

// bytes gives what is at a place, for the caller to keep.
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

// close waits for those who read.
func (s *segment) close() error {
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	return s.file.Close()
}
