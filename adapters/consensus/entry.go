package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A log entry is
//
//	version (1 byte) | kind (1 byte) | body | CRC-32C of all before (4 bytes, little endian)
//
// where the body is a message in protobuf's wire format, its fields in ascending
// order. Every version that was ever written stays readable. A build that meets
// a version, a kind or a field that it does not know must stop: a replica that
// skips an entry drifts apart from the others.
const entryVersion = 1

type entryKind byte

const (
	kindOpening    entryKind = 1
	kindRegister   entryKind = 2
	kindDeregister entryKind = 3
)

// opening is the first entry of a leader's term: once it is applied, so is all
// that earlier leaders committed, and the leader may serve. The first opening
// ever names the cluster.
type opening struct {
	ClusterID string
}

var (
	errChecksum  = errors.New("checksum mismatch: the data is damaged")
	errTruncated = errors.New("the data ends too early")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

const checksumSize = 4

// encodeEntry encodes an opening or a domain.Command.
func encodeEntry(entry any) []byte {
	b := make([]byte, 0, 256)
	switch entry := entry.(type) {
	case opening:
		b = append(b, entryVersion, byte(kindOpening))
		b = appendString(b, 1, entry.ClusterID)
	case domain.Register:
		b = append(b, entryVersion, byte(kindRegister))
		b = appendMessage(b, 1, appendNode(nil, &entry.Node))
		b = appendCondition(b, 2, entry.If)
	case domain.Deregister:
		b = append(b, entryVersion, byte(kindDeregister))
		b = appendString(b, 1, entry.ID)
		b = appendCondition(b, 2, entry.If)
	default:
		panic(fmt.Sprintf("consensus: no format for an entry of type %T", entry))
	}
	return appendChecksum(b)
}

// decodeEntry gives back what encodeEntry was given. It keeps nothing of data.
func decodeEntry(data []byte) (any, error) {
	body, err := verifyChecksum(data)
	if err != nil {
		return nil, err
	}
	if len(body) < 2 {
		return nil, errTruncated
	}
	version, kind, body := body[0], entryKind(body[1]), body[2:]
	if version != entryVersion {
		return nil, fmt.Errorf("entry has format version %d, this build reads %d: a newer build wrote it", version, entryVersion)
	}
	switch kind {
	case kindOpening:
		var entry opening
		err = readFields(body, func(f *field) {
			switch f.number {
			case 1:
				entry.ClusterID = f.text()
			default:
				f.unknown()
			}
		})
		return entry, err
	case kindRegister:
		var entry domain.Register
		err = readFields(body, func(f *field) {
			switch f.number {
			case 1:
				entry.Node = f.node()
			case 2:
				entry.If = f.condition()
			default:
				f.unknown()
			}
		})
		return entry, err
	case kindDeregister:
		var entry domain.Deregister
		err = readFields(body, func(f *field) {
			switch f.number {
			case 1:
				entry.ID = f.text()
			case 2:
				entry.If = f.condition()
			default:
				f.unknown()
			}
		})
		return entry, err
	}
	return nil, fmt.Errorf("entry is of kind %d, which this build does not know: a newer build wrote it", kind)
}

func appendChecksum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func verifyChecksum(data []byte) ([]byte, error) {
	if len(data) < checksumSize {
		return nil, errTruncated
	}
	body, sum := data[:len(data)-checksumSize], data[len(data)-checksumSize:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil, errChecksum
	}
	return body, nil
}

// The fields of a node's message.
const (
	nodeID protowire.Number = iota + 1
	nodeAddress
	nodePool
	nodeWeight
	nodeZone
	nodeLabel // repeated, keys ascending: 1 key, 2 value
	nodeState
	nodeSlot
	nodeCreatedRevision
	nodeRevision
)

func appendNode(b []byte, n *domain.CacheNode) []byte {
	b = appendString(b, nodeID, n.ID)
	b = appendString(b, nodeAddress, n.Address)
	b = appendString(b, nodePool, n.Pool)
	b = appendUint(b, nodeWeight, uint64(n.Weight))
	b = appendString(b, nodeZone, n.Zone)
	for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
		label := appendString(nil, 1, key)
		b = appendMessage(b, nodeLabel, appendString(label, 2, n.Labels[key]))
	}
	b = appendString(b, nodeState, string(n.State))
	b = appendUint(b, nodeSlot, uint64(n.Slot))
	b = appendUint(b, nodeCreatedRevision, uint64(n.CreatedRevision))
	return appendUint(b, nodeRevision, uint64(n.Revision))
}

func (f *field) node() domain.CacheNode {
	var n domain.CacheNode
	f.message(func(f *field) {
		switch f.number {
		case nodeID:
			n.ID = f.text()
		case nodeAddress:
			n.Address = f.text()
		case nodePool:
			n.Pool = f.text()
		case nodeWeight:
			n.Weight = f.int()
		case nodeZone:
			n.Zone = f.text()
		case nodeLabel:
			key, value := f.label()
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[key] = value
		case nodeState:
			n.State = domain.State(f.text())
		case nodeSlot:
			n.Slot = f.int()
		case nodeCreatedRevision:
			n.CreatedRevision = domain.Revision(f.uint())
		case nodeRevision:
			n.Revision = domain.Revision(f.uint())
		default:
			f.unknown()
		}
	})
	return n
}

func (f *field) label() (key, value string) {
	f.message(func(f *field) {
		switch f.number {
		case 1:
			key = f.text()
		case 2:
			value = f.text()
		default:
			f.unknown()
		}
	})
	return key, value
}

func appendCondition(b []byte, number protowire.Number, c domain.Condition) []byte {
	if c == (domain.Condition{}) {
		return b
	}
	message := appendUint(nil, 1, uint64(c.Expect))
	return appendMessage(b, number, appendUint(message, 2, uint64(c.Revision)))
}

func (f *field) condition() domain.Condition {
	var c domain.Condition
	f.message(func(f *field) {
		switch f.number {
		case 1:
			expect := f.uint()
			if expect > uint64(domain.AtRevision) {
				f.fail(fmt.Errorf("condition of unknown kind %d: a newer build wrote it", expect))
				return
			}
			c.Expect = domain.Expectation(expect)
		case 2:
			c.Revision = domain.Revision(f.uint())
		default:
			f.unknown()
		}
	})
	return c
}
