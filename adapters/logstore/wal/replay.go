package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// ErrDamaged is what Open returns for files that are not as they were written.
var ErrDamaged = logstore.Damage("write-ahead log is damaged: nothing was changed; " + logstore.HelpDamaged)

// replay is what the segments say, one after the other.
//
// Batches are numbered without gaps, and one is written when the one before it is
// durable. So what can't be read is the rest of the last write, which nobody was told
// is done, if nothing of a later one lies behind it; else it is damage. A batch that is
// not whole is not there. And what the list says was durable is there, or it is damage
// as well, whatever lies behind it.
type replay struct {
	segments  []*segment // those that were begun, but the first one anyway
	spares    []*segment // those behind them
	torn      []tornTail
	places    places
	values    map[string][]byte
	next      uint64 // number of the next batch; 1 when there was none
	lastBatch writtenBatch
	closed    bool // the last one says that all before was written
}

// tornTail is what a write has left in a segment, behind its end.
type tornTail struct {
	segment *segment
	end     int64
}

// writtenBatch is a batch as it is in its segment, which is nil where there is none.
type writtenBatch struct {
	segment *segment
	at      int64
	raw     []byte
}

// image is a segment with what is in it.
type image struct {
	*segment
	raw []byte
}

// firstBatch is the number of the batch that a segment begins with; 0 for none that is
// whole. It has all of the stable state, for which the segments before are not needed then.
func (i image) firstBatch() uint64 {
	raw := i.raw[segmentHeader:]
	first, ok := readRecord(raw, i.seed)
	for found := first; ok && found.number == first.number; found, ok = readRecord(raw, i.seed) {
		if found.last {
			return first.number >> tryBits
		}
		raw = raw[found.size:]
	}
	return 0
}

// replayAll reads the listed segments. Their files stay open, unless it fails.
func replayAll(dir string, listed list, flag int) (*replay, error) {
	r := &replay{values: map[string][]byte{}, next: 1}
	if err := r.readAll(dir, listed, flag); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *replay) readAll(dir string, listed list, flag int) error {
	if listed.First == 0 {
		return nil
	}
	var last image
	var behind []image // last, which can't be read, or were not begun
	for id := listed.First; id <= listed.Last; id++ {
		opened, raw, err := openSegment(dir, id, flag)
		if err != nil {
			return err
		}
		r.spares = append(r.spares, opened)
		now := image{opened, raw}
		first := now.firstBatch()
		switch {
		case id == listed.First && first == 0 && id > 1:
			// What removed the ones before it was written later than its first batch.
			return fmt.Errorf("%w (%s: unreadable at byte %d, and it is the oldest file)", ErrDamaged, opened.path, opened.end)
		case id == listed.First:
			r.next = max(first, 1)
		case first == 0:
			behind = append(behind, now)
			continue
		default:
			if err := r.readSegment(last, first); err != nil {
				return err
			}
		}
		last, behind = now, nil
		r.segments, r.spares = append(r.segments, r.spares...), nil
	}
	if err := r.readSegment(last, math.MaxUint64); err != nil {
		return err
	}
	for _, spare := range behind {
		if err := r.checkTail(spare); err != nil {
			return err
		}
	}
	if r.next <= listed.Reaches {
		return fmt.Errorf("%w (%s: unreadable at byte %d, and more of it was written: the last batch is %d, and %s knows of batch %d)",
			ErrDamaged, last.path, last.end, r.next-1, listName, listed.Reaches)
	}
	return nil
}

// rewriteLast makes what was read durable, which it need not be when the process was killed
// that wrote it. Nothing may be built upon it before. Only the last batch is in doubt, and
// not where the list knows of it. It is written once more: a sync that failed may have left
// it in the system's memory alone, with nothing to be written by another sync (Rebello and
// others, "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
func (r *replay) rewriteLast(listed list) error {
	last := r.lastBatch
	if last.segment == nil || r.next-1 <= listed.Reaches {
		return nil
	}
	if _, err := last.segment.file.WriteAt(last.raw, last.at); err != nil {
		return err
	}
	return last.segment.file.Sync()
}

func (r *replay) close() error {
	var failed []error
	for _, s := range slices.Concat(r.segments, r.spares) {
		failed = append(failed, s.close())
	}
	return errors.Join(failed...)
}

// readSegment reads the next segment, up to the batch with which another one begins.
func (r *replay) readSegment(i image, below uint64) error {
	if err := r.applyBatches(i.segment, i.raw, below); err != nil {
		return err
	}
	if below != math.MaxUint64 && r.next != below {
		return fmt.Errorf("%w (%s: unreadable at byte %d, and what was written later follows in another file)", ErrDamaged, i.path, i.end)
	}
	return r.checkTail(i)
}

// checkTail looks at what lies behind the end of a segment.
func (r *replay) checkTail(i image) error {
	behind := trimZeros(i.raw[i.end:])
	if later := laterThan(r.next, behind, i.seed); later >= 0 {
		return fmt.Errorf("%w (%s: unreadable at byte %d, and what was written later follows at byte %d)", ErrDamaged, i.path, i.end, i.end+int64(later))
	}
	if len(behind) > 0 {
		r.torn = append(r.torn, tornTail{i.segment, i.end + int64(len(behind))})
	}
	return nil
}

var zeros [4 << 10]byte

// trimZeros gives raw without the zeros at its end, of which there can be megabytes.
func trimZeros(raw []byte) []byte {
	for len(raw) >= len(zeros) && bytes.Equal(raw[len(raw)-len(zeros):], zeros[:]) {
		raw = raw[:len(raw)-len(zeros)]
	}
	return bytes.TrimRight(raw, "\x00")
}

// applyBatches takes what is whole, and moves the end of the segment behind it.
func (r *replay) applyBatches(s *segment, raw []byte, below uint64) error {
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
		r.lastBatch = writtenBatch{segment: s, at: int64(pending[0].at), raw: raw[pending[0].at:at]}
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

// repair makes the segments end with zeros, and removes the files that do not belong
// to the log: a crash has left both.
func (r *replay) repair(dir string, logger *slog.Logger) error {
	for _, torn := range r.torn {
		logger.Info("a write was not finished, and is dropped", "path", torn.segment.path, "byte", torn.segment.end)
		if err := fill(torn.segment.file, torn.segment.end, torn.end); err != nil {
			return err
		}
		if err := torn.segment.file.Sync(); err != nil {
			return err
		}
	}
	files, err := segmentFiles(dir)
	if err != nil {
		return err
	}
	for _, path := range files {
		belongs := func(s *segment) bool { return s.path == path }
		if slices.ContainsFunc(r.segments, belongs) || slices.ContainsFunc(r.spares, belongs) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// warn tells of what an instance would drop.
func (r *replay) warn(logger *slog.Logger) {
	for _, torn := range r.torn {
		logstore.WarnOfTornEnd(logger, torn.segment.path, slog.Int64("byte", torn.segment.end))
	}
}
