package badger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// ErrDamaged is what Open returns for a write-ahead log that lost acknowledged
// entries.
var ErrDamaged = logstore.Damage("write-ahead log is damaged before its end: nothing was changed; " + logstore.HelpDamaged)

// The write-ahead log of badger v4, as far as this package reads it:
//
//	file:   20 bytes of header, records, zeros
//	record: meta, user meta, key length, value length, expiry (the last three
//	        uvarints), key, value, CRC-32C of all that, big-endian
//
// The last record of a transaction is its end marker: its key is markerKey followed by
// a timestamp, its value the timestamp in decimal.
const (
	walHeaderSize  = 20
	markerHeadSize = 5 // bytes before a marker's key: every length takes one byte
	// minWALFileSize is the least size to which badger extends a write-ahead log before it
	// writes to it. Earlier builds made larger ones. See memtableSize.
	minWALFileSize = 4 << 20
)

// This does not compile if badger would make smaller ones: it makes them twice as large as
// a memtable.
const _ = uint(2*memtableSize - minWALFileSize)

var (
	markerKey  = []byte("!badger!txn")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// refuseLostEntries looks for damage that badger would repair by dropping entries.
//
// badger ends a write-ahead log at the first record that it can't read, and
// silently drops the rest. After a crash that is right for the transaction that was
// being written: it was not acknowledged. But this package writes transactions one
// after the other, each only when the one before it is durable. So if two end
// markers follow the unreadable place, the first of these transactions was
// acknowledged, and an instance that forgot it could undo what a majority agreed on.
func refuseLostEntries(dir string) error {
	paths, err := logstore.FilesNamed(dir, "", walSuffix)
	if err != nil {
		return err
	}
	// The names are numbers, of five digits at first and of six later: sort by length too.
	slices.SortStableFunc(paths, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	found := false
	for at, path := range paths {
		// A log that is not the newest was complete before the next one was begun.
		inFlight := 0
		if at == len(paths)-1 {
			inFlight = 1
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(raw) <= walHeaderSize {
			continue
		}
		found = true
		if encrypted(raw) {
			return fmt.Errorf("%w (%s: its beginning makes no sense)", ErrDamaged, path)
		}
		end := readableEnd(raw)
		// After a crash, badger itself truncates a log, right after its last transaction,
		// and writes no more to it.
		if len(raw) < minWALFileSize && len(raw) != end {
			return fmt.Errorf("%w (%s: it is cut off: it has %d bytes, and is readable up to byte %d)", ErrDamaged, path, len(raw), end)
		}
		if lost := markersAfter(raw, end); lost > inFlight {
			return fmt.Errorf("%w (%s: unreadable at byte %d, %d transactions follow)", ErrDamaged, path, end, lost)
		}
	}
	opened, err := wasOpen(dir)
	if err != nil {
		return err
	}
	if opened && !found {
		return fmt.Errorf("%w (%s: it is empty or missing)", ErrDamaged, filepath.Join(dir, "*"+walSuffix))
	}
	return nil
}

// encrypted reports whether the header of a write-ahead log or a value log names an
// encryption key. This package uses none, so such a header is damaged: badger would not
// find the key, and would not open the file.
func encrypted(raw []byte) bool {
	return len(raw) >= walHeaderSize && binary.BigEndian.Uint64(raw) != 0
}

// removeEmpty removes the empty files that a crash left, which badger refuses to open.
// badger creates a file before it sets its size, and it truncates a write-ahead log to
// nothing before it removes it, once the tables have its contents. Value logs never hold
// anything here.
func removeEmpty(dir string) error {
	for _, suffix := range []string{walSuffix, valueSuffix} {
		paths, err := logstore.FilesNamed(dir, "", suffix)
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err == nil && info.Size() == 0 {
				err = os.Remove(path)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// readableEnd returns the offset at which the last whole transaction before the first
// unreadable record ends.
func readableEnd(raw []byte) int {
	end, at := walHeaderSize, walHeaderSize
	for {
		key, size := record(raw[at:])
		if size == 0 {
			return end
		}
		at += size
		if bytes.HasPrefix(key, markerKey) {
			end = at
		}
	}
}

// record reads the record that raw begins with. The size is 0 if there is no intact one.
func record(raw []byte) (key []byte, size int) {
	if len(raw) < 2 {
		return nil, 0
	}
	at := 2
	var lengths [3]uint64
	for i := range lengths {
		number, width := binary.Uvarint(raw[at:])
		if width <= 0 {
			return nil, 0
		}
		lengths[i] = number
		at += width
	}
	keySize, valueSize, room := lengths[0], lengths[1], uint64(len(raw)-at)
	if keySize == 0 || keySize > room || valueSize > room || keySize+valueSize+crc32.Size > room {
		return nil, 0
	}
	end := at + int(keySize+valueSize)
	if crc32.Checksum(raw[:end], castagnoli) != binary.BigEndian.Uint32(raw[end:]) {
		return nil, 0
	}
	return raw[at : at+int(keySize)], end + crc32.Size
}

// markersAfter counts the intact end markers at or after the offset from, which is behind
// the header of the log. A marker's key
// inside the data of an entry does not count: no record with a correct checksum begins
// right before it.
func markersAfter(raw []byte, from int) int {
	count := 0
	for at := from; ; {
		hit := bytes.Index(raw[at:], markerKey)
		if hit < 0 {
			return count
		}
		at += hit
		if key, size := record(raw[at-markerHeadSize:]); size > 0 && bytes.HasPrefix(key, markerKey) {
			count++
		}
		at += len(markerKey)
	}
}
