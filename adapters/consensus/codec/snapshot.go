package codec

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A snapshot is
//
//	"NMDSNAP" | version (1 byte) | records | CRC-32C of all before (4 bytes, little endian)
//
// where a record is its length (uvarint) and a message in protobuf's wire
// format: one head, then the history oldest first, then the nodes in ascending
// order of their ids, then the promotions in ascending order, then, if a restore is under
// way, its staged parts and their nodes, then one end. A node that the history holds is not
// written again, but referred to by its revision. The same state makes the same bytes.
const (
	snapshotMagic   = "NMDSNAP"
	snapshotVersion = 1

	// maxRecord is far above the size of a change with two nodes.
	maxRecord = 1 << 20
)

// The kinds of records: each is a message with one of these fields.
const (
	recordHead protowire.Number = iota + 1
	recordChange
	recordNode
	recordEnd
	recordPromotion
	recordStaged
	recordStagedNode
)

// Snapshot is the state of the state machine at one moment.
type Snapshot struct {
	View      domain.View
	ClusterID string
	Applied   uint64 // index of the last entry applied
	OpenTerm  uint64 // term of the last opening applied

	Promotions []string // ids of instances to be promoted to voters, in ascending order
	Staged     *Staged  // nil while no restore is under way
}

// Staged is a restore that is under way: its ID, how many of its parts are staged, and their
// nodes in ascending order of their ids.
type Staged struct {
	ID    string
	Parts int
	Nodes []*domain.CacheNode
}

// WriteSnapshot writes s to w, through a buffer of its own. After an error the caller must
// discard what was written.
func WriteSnapshot(w io.Writer, s Snapshot) error {
	out := snapshotWriter{w: bufio.NewWriterSize(w, 64<<10), sum: crc32.New(castagnoli)}
	out.write(append([]byte(snapshotMagic), snapshotVersion))

	changes := s.View.History()
	out.record(recordHead, func(b []byte) []byte {
		b = appendString(b, 1, s.ClusterID)
		b = appendUint(b, 2, uint64(s.View.Revision()))
		b = appendUint(b, 3, s.Applied)
		b = appendUint(b, 4, s.OpenTerm)
		return appendUint(b, 5, uint64(len(changes)))
	})
	for i := range changes {
		out.record(recordChange, func(b []byte) []byte { return appendChange(b, &changes[i], changes) })
	}
	for n := range s.View.Nodes() {
		out.record(recordNode, func(b []byte) []byte { return appendNodeOrReference(b, n, changes) })
	}
	for _, id := range s.Promotions {
		out.record(recordPromotion, func(b []byte) []byte { return appendString(b, 1, id) })
	}
	if s.Staged != nil {
		out.record(recordStaged, func(b []byte) []byte { return appendStaged(b, s.Staged) })
		for _, n := range s.Staged.Nodes {
			out.record(recordStagedNode, func(b []byte) []byte { return appendNodeMessage(b, 1, n) })
		}
	}
	out.record(recordEnd, func(b []byte) []byte { return appendUint(b, 1, uint64(s.View.Len())) })
	return out.finish()
}

type snapshotWriter struct {
	w               *bufio.Writer
	sum             hash.Hash32
	length, scratch []byte
	err             error
}

func (s *snapshotWriter) write(b []byte) {
	if s.err == nil {
		s.sum.Write(b) // never fails
		_, s.err = s.w.Write(b)
	}
}

func (s *snapshotWriter) record(kind protowire.Number, fields func(b []byte) []byte) {
	s.scratch = appendMessage(s.scratch[:0], kind, fields)
	s.length = binary.AppendUvarint(s.length[:0], uint64(len(s.scratch)))
	s.write(s.length)
	s.write(s.scratch)
}

func (s *snapshotWriter) finish() error {
	if s.err == nil {
		_, s.err = s.w.Write(binary.LittleEndian.AppendUint32(nil, s.sum.Sum32()))
	}
	if s.err == nil {
		s.err = s.w.Flush()
	}
	return s.err
}

// The fields of a change's message.
const (
	changeEffect protowire.Number = iota + 1
	changeReason
	changeNode              // omitted if it is the previous node
	changePreviousReference // revision of the change that made the previous node
	changePrevious          // the previous node, if that change is no longer in the history
)

var effects = []domain.Effect{1: domain.Added, 2: domain.Updated, 3: domain.Removed}
var reasons = []domain.Reason{1: domain.ByRequest, 2: domain.ByExpiry, 3: domain.ByRestore}

func appendChange(b []byte, c *domain.Change, changes []domain.Change) []byte {
	b = appendUint(b, changeEffect, enumNumber(effects, c.Effect))
	b = appendUint(b, changeReason, enumNumber(reasons, c.Reason))
	if c.Effect != domain.Removed {
		b = appendNodeMessage(b, changeNode, c.Node)
	}
	switch {
	case c.Previous == nil:
		return b
	case changeThatMade(c.Previous, changes) != nil:
		return appendUint(b, changePreviousReference, uint64(c.Previous.Revision))
	}
	return appendNodeMessage(b, changePrevious, c.Previous)
}

func enumNumber[T comparable](table []T, wanted T) uint64 {
	for number, known := range table {
		if number > 0 && known == wanted {
			return uint64(number)
		}
	}
	panic(fmt.Sprintf("codec: no format for %v", wanted))
}

// changeThatMade returns the change that made n what it is; nil if that is no longer in the
// history.
func changeThatMade(n *domain.CacheNode, changes []domain.Change) *domain.Change {
	if len(changes) == 0 || n.Revision < changes[0].Revision {
		return nil
	}
	return &changes[n.Revision-changes[0].Revision]
}

// The fields of a node record.
const (
	nodeReference protowire.Number = iota + 1 // revision of the change that made it
	nodeInline
)

func appendNodeOrReference(b []byte, n *domain.CacheNode, changes []domain.Change) []byte {
	if changeThatMade(n, changes) != nil {
		return appendUint(b, nodeReference, uint64(n.Revision))
	}
	return appendNodeMessage(b, nodeInline, n)
}

func appendStaged(b []byte, s *Staged) []byte {
	b = appendString(b, 1, s.ID)
	b = appendUint(b, 2, uint64(s.Parts))
	return appendUint(b, 3, uint64(len(s.Nodes)))
}
