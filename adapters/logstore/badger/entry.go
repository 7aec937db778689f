package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Keys. Numbers are big-endian, so that keys sort by index.
//
//	'l' index                    head of a log entry
//	'l' index generation part    a part of its payload that did not fit the head
//	's' key                      stable state
//
// An entry exists if its head does. The parts of a large entry are written before
// the head, under a generation that no head names yet; so a crash in between
// leaves parts that are never read, and never half an entry.
const (
	logPrefix    = 'l'
	stablePrefix = 's'
	headKeySize  = 1 + 8
	partKeySize  = headKeySize + 4 + 4
)

// entryFormat is the first byte of every head. Builds keep a reader for each past format.
const entryFormat = 1

// partSize is how many bytes of payload a value holds at most. It must stay below the
// threshold at which badger moves values to its value log; see optionsFor.
const partSize = 256 << 10

// errEntry is wrapped by every error about an entry that can't be decoded.
var errEntry = errors.New("stored log entry can't be read")

// errLost is wrapped by every error about entries that were stored and that badger does not
// find.
var errLost = logstore.Damage("stored log entries are lost")

func headKey(index uint64) []byte {
	key := make([]byte, 1, headKeySize)
	key[0] = logPrefix
	return binary.BigEndian.AppendUint64(key, index)
}

func partKey(index uint64, generation, part uint32) []byte {
	key := make([]byte, 1, partKeySize)
	key[0] = logPrefix
	key = binary.BigEndian.AppendUint64(key, index)
	key = binary.BigEndian.AppendUint32(key, generation)
	return binary.BigEndian.AppendUint32(key, part)
}

func stableKey(key []byte) []byte {
	return append([]byte{stablePrefix}, key...)
}

// indexOf returns the raft index in a log key, of a head or of a part.
func indexOf(key []byte) uint64 {
	return binary.BigEndian.Uint64(key[1:])
}

func isHead(key []byte) bool { return len(key) == headKeySize }

// head is the first value of an entry: all of it but the parts of its payload. The payload
// is the extensions followed by the data.
type head struct {
	log        raft.Log // without Extensions and Data
	extensions uint64   // bytes
	data       uint64   // bytes
	generation uint32   // of the parts; 0 when there are none
	payload    []byte   // its beginning
}

func payloadOf(log *raft.Log) []byte {
	payload := make([]byte, 0, len(log.Extensions)+len(log.Data))
	payload = append(payload, log.Extensions...)
	return append(payload, log.Data...)
}

// encodeHead encodes the head of log. payload is the beginning of the entry's payload,
// which the head holds itself.
func encodeHead(log *raft.Log, generation uint32, payload []byte) []byte {
	value := make([]byte, 0, 64+len(payload))
	value = append(value, entryFormat, byte(log.Type))
	value = binary.AppendUvarint(value, log.Term)
	// Seconds and nanoseconds, not nanoseconds alone: these can't represent the zero
	// time.
	value = binary.AppendVarint(value, log.AppendedAt.Unix())
	value = binary.AppendUvarint(value, uint64(log.AppendedAt.Nanosecond()))
	value = binary.AppendUvarint(value, uint64(generation))
	value = binary.AppendUvarint(value, uint64(len(log.Extensions)))
	value = binary.AppendUvarint(value, uint64(len(log.Data)))
	return append(value, payload...)
}

// decodeHead decodes what encodeHead wrote. The payload shares memory with value.
func decodeHead(index uint64, value []byte) (head, error) {
	if len(value) < 2 {
		return head{}, fmt.Errorf("%w: index %d: %d bytes", errEntry, index, len(value))
	}
	if value[0] != entryFormat {
		return head{}, fmt.Errorf("%w: index %d: format %d, this build reads %d", errEntry, index, value[0], entryFormat)
	}
	fields := logstore.Fields{Rest: value[2:]}
	h := head{log: raft.Log{Index: index, Type: raft.LogType(value[1]), Term: fields.Uvarint()}}
	seconds, nanoseconds := fields.Varint(), fields.Uvarint()
	h.log.AppendedAt = time.Unix(seconds, int64(nanoseconds)).UTC()
	h.generation = uint32(fields.Uvarint())
	h.extensions, h.data = fields.Uvarint(), fields.Uvarint()
	h.payload = fields.Rest
	if fields.Short {
		return head{}, fmt.Errorf("%w: index %d: cut off", errEntry, index)
	}
	return h, nil
}

// size is the length of the whole payload.
func (h head) size() uint64 { return h.extensions + h.data }

// entry joins the head with its whole payload.
func (h head) entry(payload []byte) (raft.Log, error) {
	// h.size can overflow; the first comparison rejects such a head.
	if h.extensions > uint64(len(payload)) || h.size() != uint64(len(payload)) {
		return raft.Log{}, fmt.Errorf("%w: index %d: %d bytes of payload, its head says %d and %d",
			errEntry, h.log.Index, len(payload), h.extensions, h.data)
	}
	log := h.log
	if h.extensions > 0 {
		log.Extensions = payload[:h.extensions:h.extensions]
	}
	if h.data > 0 {
		log.Data = payload[h.extensions:]
	}
	return log, nil
}
