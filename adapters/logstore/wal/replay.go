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

// ErrDamaged is what Open returns for files that differ from what was written.
var ErrDamaged = logstore.Damage("write-ahead log is damaged: nothing was changed; " + logstore.HelpDamaged)

// replay rebuilds the state of a log by reading its segments in order.
//
// Batches are numbered without gaps, and each is written only when the one before it is
// durable. So unreadable data is what remains of the last write, which was not acknowledged,
// if no part of a later batch follows; otherwise it is damage. An incomplete batch does not
// count. If the log ends before the batch that the list says was durable, that is damage as
// well, whatever follows.
type replay struct {
	segments  []*segment // those that were begun, and the first one in any case
	spares    []*segment // the segments after them
	torn      []tornTail
	places    places
	values    map[string][]byte
	next      uint64 // number of the next batch; 1 when there was none
	lastBatch writtenBatch
	closed    bool // the last record says that everything before it was written
}

// tornTail is what an unfinished write left in a segment: from the segment's end to end.
type tornTail struct {
	segment *segment
	end     int64
}

// writtenBatch is a batch as it is stored; segment is nil if there is no batch.
type writtenBatch struct {
	segment *segment
	at      int64
	raw     []byte
}

// image is a segment with the contents of its file.
type image struct {
	*segment
	raw []byte
}

// firstBatch returns the number of the batch that the segment begins with, or 0 if it is
// not whole. This batch holds all of the stable state, so that the segments before are not
// needed for that.
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

// replayAll reads the listed segments. It leaves their files open, unless it fails.
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
	var last image     // the last segment known to be begun
	var behind []image // the segments after last: not begun, or unreadable
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
			// The segments before it were removed, which happens only after its first batch
			// is durable.
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

// rewriteLast makes durable what was read; nothing may be appended before. If the process
// that wrote the last batch was killed before its sync, that batch is readable but may not be
// durable. Only the last batch is in doubt, and not if the list covers it. A sync alone is
// not enough: one that failed may have left the batch in the page cache, marked as clean, so
// that another sync writes nothing (Rebello and others, "Can Applications Recover from fsync
// Failures?", USENIX ATC 2020). So the batch is written again.
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

// readSegment applies the batches of a segment up to the one numbered below, with which the
// segment after it begins; math.MaxUint64 means that there is none.
func (r *replay) readSegment(i image, below uint64) error {
	if err := r.applyBatches(i.segment, i.raw, below); err != nil {
		return err
	}
	if below != math.MaxUint64 && r.next != below {
		return fmt.Errorf("%w (%s: unreadable at byte %d, and what was written later follows in another file)", ErrDamaged, i.path, i.end)
	}
	return r.checkTail(i)
}

// checkTail looks at the data after the end of a segment: a record of a later batch is
// damage, anything else is remembered in r.torn.
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

// trimZeros returns raw without the zeros at its end, of which there can be megabytes.
func trimZeros(raw []byte) []byte {
	for len(raw) >= len(zeros) && bytes.Equal(raw[len(raw)-len(zeros):], zeros[:]) {
		raw = raw[:len(raw)-len(zeros)]
	}
	return bytes.TrimRight(raw, "\x00")
}

// applyBatches applies the whole batches numbered lower than below, and moves the end of
// the segment behind them.
func (r *replay) applyBatches(s *segment, raw []byte, below uint64) error {
	var pending []span
	var number uint64
	// The batch numbered below can be here as well: a failed attempt, made again in the
	// next segment.
	for at := int(s.end); r.next < below; {
		found, ok := readRecord(raw[at:], s.seed)
		// A record with another number is left over from an earlier attempt.
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

// laterThan returns the offset in raw of the first record whose batch has a higher number
// than the given one, or -1.
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

// repair undoes what a crash left: it overwrites unfinished writes with zeros, and removes
// the segment files that do not belong to the log.
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

// warn logs the unfinished writes, which Open would drop.
func (r *replay) warn(logger *slog.Logger) {
	for _, torn := range r.torn {
		logstore.WarnOfTornEnd(logger, torn.segment.path, slog.Int64("byte", torn.segment.end))
	}
}
