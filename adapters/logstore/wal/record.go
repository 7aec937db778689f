package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// A record begins at a multiple of 8 bytes in its file. Numbers are little-endian:
//
//	checksum u32: CRC-32C of the salt of the file and of everything that follows
//	length   u32: of the payload; the highest bit marks the last record of a batch
//	number   u64: of the batch; the lowest 16 bits number the attempt to write it
//	payload
//	1 to 8 bytes of filler, so that a record never ends with a zero
//
// The payload is the kind, followed by the fields below; its numbers are varints.
const (
	recordHeader = 16
	alignment    = 8
	filler       = 0xee
	lastOfBatch  = 1 << 31
	maxPayload   = lastOfBatch - 1
	tryBits      = 16
)

// The kinds of records. A kind never changes: every later build reads it.
const (
	kindEntry   = 1 // type u8, index, term, AppendedAt (seconds, nanoseconds), size of the extensions, extensions, data
	kindRemoval = 2 // first and last index: removes these entries, as far as earlier records hold them
	kindValue   = 3 // size of the key, key, value of the stable state
	kindClosed  = 4 // nothing: everything before this record was written
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errRecord is the error for a record that has the right checksum but can't be decoded.
var errRecord = errors.New("record can't be read")

// recordSize returns the size in the file of a record whose payload has that many bytes.
func recordSize(payload int) int {
	return (recordHeader + payload + alignment) &^ (alignment - 1)
}

// batch collects the records of one write. It is reused: see reset.
type batch struct {
	raw     []byte
	records []span
	open    int // where the record that is being added begins
}

// span is where a record lies in a buffer.
type span struct{ at, size int }

func (b *batch) reset() {
	const kept = 1 << 20
	if cap(b.raw) > kept {
		b.raw = nil // an unusually large batch: free its memory
	}
	b.raw, b.records = b.raw[:0], b.records[:0]
}

// begin starts a record of the given kind. The caller appends its payload to raw, and then
// calls end.
func (b *batch) begin(kind byte) {
	b.open = len(b.raw)
	b.raw = append(b.raw, make([]byte, recordHeader)...)
	b.raw = append(b.raw, kind)
}

func (b *batch) end() error {
	payload := len(b.raw) - b.open - recordHeader
	if payload > maxPayload {
		return fmt.Errorf("%d bytes are too many for a record", payload)
	}
	binary.LittleEndian.PutUint32(b.raw[b.open+4:], uint32(payload))
	size := recordSize(payload)
	for len(b.raw) < b.open+size {
		b.raw = append(b.raw, filler)
	}
	b.records = append(b.records, span{at: b.open, size: size})
	return nil
}

func (b *batch) addEntry(log *raft.Log) error {
	b.begin(kindEntry)
	b.raw = append(b.raw, byte(log.Type))
	b.raw = binary.AppendUvarint(b.raw, log.Index)
	b.raw = binary.AppendUvarint(b.raw, log.Term)
	// Seconds and nanoseconds, not nanoseconds alone: these can't represent the zero
	// time.
	b.raw = binary.AppendVarint(b.raw, log.AppendedAt.Unix())
	b.raw = binary.AppendUvarint(b.raw, uint64(log.AppendedAt.Nanosecond()))
	b.raw = binary.AppendUvarint(b.raw, uint64(len(log.Extensions)))
	b.raw = append(b.raw, log.Extensions...)
	b.raw = append(b.raw, log.Data...)
	return b.end()
}

func (b *batch) addRemoval(from, to uint64) error {
	b.begin(kindRemoval)
	b.raw = binary.AppendUvarint(b.raw, from)
	b.raw = binary.AppendUvarint(b.raw, to)
	return b.end()
}

func (b *batch) addValue(key string, value []byte) error {
	b.begin(kindValue)
	b.raw = binary.AppendUvarint(b.raw, uint64(len(key)))
	b.raw = append(b.raw, key...)
	b.raw = append(b.raw, value...)
	return b.end()
}

func (b *batch) addClosed() error {
	b.begin(kindClosed)
	return b.end()
}

// seal completes the headers of all records, for a file with the given checksum seed.
func (b *batch) seal(seed uint32, number uint64) {
	for at, record := range b.records {
		raw := b.raw[record.at:][:record.size]
		if at == len(b.records)-1 {
			raw[7] |= lastOfBatch >> 24
		}
		binary.LittleEndian.PutUint64(raw[8:], number)
		binary.LittleEndian.PutUint32(raw, crc32.Update(seed, castagnoli, raw[4:]))
	}
}

// record is a record that was read. Its payload shares memory with what it was read from.
type record struct {
	number  uint64
	last    bool
	size    int
	payload []byte
}

// readRecord reads the record that raw begins with. It returns false if there is no intact
// one.
func readRecord(raw []byte, seed uint32) (record, bool) {
	if len(raw) < recordHeader {
		return record{}, false
	}
	length := binary.LittleEndian.Uint32(raw[4:])
	payload := int(length &^ lastOfBatch)
	size := recordSize(payload)
	if payload == 0 || size > len(raw) {
		return record{}, false
	}
	if crc32.Update(seed, castagnoli, raw[4:size]) != binary.LittleEndian.Uint32(raw) {
		return record{}, false
	}
	return record{
		number:  binary.LittleEndian.Uint64(raw[8:]),
		last:    length&lastOfBatch != 0,
		size:    size,
		payload: raw[recordHeader:][:payload:payload],
	}, true
}

// entryOf decodes an entry. The entry shares memory with payload.
func entryOf(payload []byte) (raft.Log, error) {
	if len(payload) < 2 || payload[0] != kindEntry {
		return raft.Log{}, errRecord
	}
	fields := logstore.Fields{Rest: payload[2:]}
	log := raft.Log{Type: raft.LogType(payload[1]), Index: fields.Uvarint(), Term: fields.Uvarint()}
	seconds, nanoseconds := fields.Varint(), fields.Uvarint()
	log.AppendedAt = time.Unix(seconds, int64(nanoseconds)).UTC()
	extensions, data := fields.Split(fields.Uvarint())
	if fields.Short {
		return raft.Log{}, errRecord
	}
	if len(extensions) > 0 {
		log.Extensions = extensions
	}
	if len(data) > 0 {
		log.Data = data
	}
	return log, nil
}

func removalOf(payload []byte) (from, to uint64, err error) {
	fields := logstore.Fields{Rest: payload[1:]}
	from, to = fields.Uvarint(), fields.Uvarint()
	if fields.Short {
		return 0, 0, errRecord
	}
	return from, to, nil
}

func valueOf(payload []byte) (key, value []byte, err error) {
	fields := logstore.Fields{Rest: payload[1:]}
	key, value = fields.Split(fields.Uvarint())
	if fields.Short {
		return nil, nil, errRecord
	}
	return key, value, nil
}
