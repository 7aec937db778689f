package codec

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// The fields of a node's message, which entries and snapshots have.
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
	nodeTTLSeconds
	nodeDownOnExpiry // 1: down; left out: remove
	nodeExpiredFrom
)

func appendNode(b []byte, n *domain.CacheNode) []byte {
	b = appendString(b, nodeID, n.ID)
	b = appendString(b, nodeAddress, n.Address)
	b = appendString(b, nodePool, n.Pool)
	b = appendUint(b, nodeWeight, uint64(n.Weight))
	b = appendString(b, nodeZone, n.Zone)
	if len(n.Labels) > 0 {
		b = appendLabels(b, n.Labels)
	}
	b = appendString(b, nodeState, string(n.State))
	b = appendUint(b, nodeSlot, uint64(n.Slot))
	b = appendUint(b, nodeCreatedRevision, uint64(n.CreatedRevision))
	b = appendUint(b, nodeRevision, uint64(n.Revision))
	b = appendUint(b, nodeTTLSeconds, uint64(n.TTLSeconds))
	if n.OnExpiry == domain.DownOnExpiry {
		b = appendUint(b, nodeDownOnExpiry, 1)
	}
	return appendString(b, nodeExpiredFrom, string(n.ExpiredFrom))
}

func appendNodeMessage(b []byte, number protowire.Number, n *domain.CacheNode) []byte {
	return appendMessage(b, number, func(b []byte) []byte { return appendNode(b, n) })
}

// NodeSize returns how many bytes n takes in an encoded RestorePart.
func NodeSize(n *domain.CacheNode) int { return protowire.SizeBytes(len(appendNode(nil, n))) + 1 }

func appendLabels(b []byte, labels map[string]string) []byte {
	var room [domain.MaxLabels]string
	keys := slices.AppendSeq(room[:0], maps.Keys(labels))
	slices.Sort(keys)
	for _, key := range keys {
		b = appendMessage(b, nodeLabel, func(b []byte) []byte {
			b = appendString(b, 1, key)
			return appendString(b, 2, labels[key])
		})
	}
	return b
}

func (f *field) node() domain.CacheNode {
	n := domain.CacheNode{OnExpiry: domain.RemoveOnExpiry}
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
		case nodeTTLSeconds:
			n.TTLSeconds = f.int()
		case nodeDownOnExpiry:
			if f.uint() != 1 {
				f.fail(fmt.Errorf("field %d has an unknown value: a newer build wrote it", f.number))
			}
			n.OnExpiry = domain.DownOnExpiry
		case nodeExpiredFrom:
			n.ExpiredFrom = domain.State(f.text())
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
