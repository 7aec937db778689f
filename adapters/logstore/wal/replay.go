package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// ErrDamaged is what Open returns for files that are not as they were written.
var ErrDamaged = logstore.Damage("write-ahead log is damaged: nothing was changed; " + logstore.HelpDamaged)

// replay is what the segments say, one after the other.
//
// Batches are numbered without gaps, and one is written when the one before it is
// durable. So what can't be read is the rest of the last write, which nobody was told
// is done, if nothing of a later one lies behind it; else it is damage. A batch that is
// not whole is not there.
type replay struct {
	segments []*segment
	places   places
	values   map[string][]byte
	next     uint64 // number of the next batch; 1 when there was none
	closed   bool   // the last one says that all before was written
	torn     int64  // where the rest of a write ends, in the last segment; 0 for none
}

// replayAll reads the listed segments. Their files stay open, unless it fails.
func replayAll(dir string, listed list, flag int) (*replay, error) {
	r := &replay{values: map[string][]byte{}, next: 1}
	var last *segment
	var lastRaw []byte
	for id := listed.First; id != 0 && id <= listed.Last; id++ {
		s, raw, err := openSegment(dir, id, flag)
		if err == nil {
			r.segments = append(r.segments, s)
			err = r.follow(last, lastRaw, s.first)
		}
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		last, lastRaw = s, raw
	}
	if err := r.follow(last, lastRaw, math.MaxUint64); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *replay) close() error {
	var failed []error
	for _, s := range r.segments {
		failed = append(failed, s.close())
	}
	return errors.Join(failed...)
}

// follow reads the next segment, nil for none, up to the batch with which another one
// begins.
func (r *replay) follow(s *segment, raw []byte, below uint64) error {
	if s == nil {
		return nil
	}
	if s == r.segments[0] {
		r.next = s.first
	}
	if err := r.batches(s, raw, below); err != nil {
		return err
	}
	if below != math.MaxUint64 && r.next != below {
		return fmt.Errorf("%w (%s: unreadable at byte %d, and what was written later follows in the next file)", ErrDamaged, s.path, s.end)
	}
	behind := bytes.TrimRight(raw[s.end:], "\x00")
	if later := laterThan(r.next, behind, s.seed); later >= 0 {
		return fmt.Errorf("%w (%s: unreadable at byte %d, and what was written later follows at byte %d)", ErrDamaged, s.path, s.end, s.end+int64(later))
	}
	r.torn = 0
	if len(behind) > 0 {
		r.torn = s.end + int64(len(behind))
	}
	return nil
}

// batches takes what is whole, and moves the end of the segment behind it.
func (r *replay) batches(s *segment, raw []byte, below uint64) error {
	var pending []span
	var number uint64
	// A batch that another segment begins with was tried here, and failed.
	for at := int(s.end); r.next < below; {
		found, ok := readRecord(raw[at:], s.seed)
		// Another number is that of an earlier try.
		if !ok || found.number>>tryBits != r.next || len(pending) > 0 && found.number != number {
			return nil
		}
		number = found.number
		pending = append(pending, span{at: at, size: found.size})
		at += found.size
		if !found.last {
			continue
		}
		for _, record := range pending {
			if err := r.apply(s, raw, record); err != nil {
				return fmt.Errorf("%s: byte %d: %w", s.path, record.at, err)
			}
		}
		r.next++
		s.end = int64(at)
		pending = pending[:0]
	}
	return nil
}

func (r *replay) apply(s *segment, raw []byte, in span) error {
	payload := raw[in.at+recordHeader : in.at+recordHeader+int(binary.LittleEndian.Uint32(raw[in.at+4:])&^lastOfBatch)]
	r.closed = payload[0] == kindClosed
	switch payload[0] {
	case kindEntry:
		entry, err := entryOf(payload)
		if err != nil {
			return err
		}
		r.places.put(place{index: entry.Index, segment: s, at: uint32(in.at), size: uint32(in.size)})
	case kindRemoval:
		from, to, err := removalOf(payload)
		if err != nil {
			return err
		}
		r.places.remove(from, to)
	case kindValue:
		key, value, err := valueOf(payload)
		if err != nil {
			return err
		}
		r.values[string(key)] = bytes.Clone(value)
	case kindClosed:
	default:
		return fmt.Errorf("%w: it is of kind %d, which this build does not know: run the version that wrote it, or a newer one", errRecord, payload[0])
	}
	return nil
}

// laterThan looks for a record of a batch after the given one; -1 for none.
func laterThan(batch uint64, raw []byte, seed uint32) int {
	const plausible = 1 << 32
	for at := 0; at+recordHeader <= len(raw); at += alignment {
		number := binary.LittleEndian.Uint64(raw[at+8:]) >> tryBits
		if number <= batch || number > batch+plausible {
			continue
		}
		if _, ok := readRecord(raw[at:], seed); ok {
			return at
		}
	}
	return -1
}

// repair makes the last segment end with zeros, and removes the files that do not
// belong to the log: a crash has left both.
func (r *replay) repair(dir string, listed list, logger *slog.Logger) error {
	if len(r.segments) > 0 && r.torn > 0 {
		tail := r.segments[len(r.segments)-1]
		logger.Info("the last write was not finished, and is dropped", "path", tail.path, "byte", tail.end)
		if err := fill(tail.file, tail.end, r.torn); err != nil {
			return err
		}
		if err := tail.file.Sync(); err != nil {
			return err
		}
	}
	files, err := segmentFiles(dir)
	if err != nil {
		return err
	}
	belongs := map[string]bool{}
	for id := listed.First; id != 0 && id <= listed.Last; id++ {
		belongs[segmentPath(dir, id)] = true
	}
	for _, path := range files {
		if belongs[path] {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// warn tells of what an instance would drop: whether there was a crash only an
// operator knows.
func (r *replay) warn(logger *slog.Logger) {
	if len(r.segments) == 0 || r.torn == 0 {
		return
	}
	tail := r.segments[len(r.segments)-1]
	logger.Warn("the last write is not whole, and an instance drops it when it starts: right after a crash, "+
		"when nobody was told that it is done; if there was no crash, this is damage, and something acknowledged may be missing",
		"path", tail.path, "byte", tail.end)
}
