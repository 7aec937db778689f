package consensus

import (
	"bufio"
	"encoding/binary"
	"errors"
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

// fsmSnapshot is the state of the machine at one moment. It implements raft.FSMSnapshot.
type fsmSnapshot struct {
	view      domain.View
	clusterID string
	applied   uint64 // index of the last entry applied
	openTerm  uint64 // term of the last opening applied

	promotions []string       // ids of instances to be promoted to voters
	staged     *frozenStaging // nil while no restore is under way
}

// writeSnapshot writes im to w. After an error the caller must drop all that was written.
func writeSnapshot(w io.Writer, im fsmSnapshot) error {
	out := snapshotWriter{w: bufio.NewWriterSize(w, 64<<10), sum: crc32.New(castagnoli)}
	out.write(append([]byte(snapshotMagic), snapshotVersion))

	changes := im.view.History()
	out.record(recordHead, func(b []byte) []byte {
		b = appendString(b, 1, im.clusterID)
		b = appendUint(b, 2, uint64(im.view.Revision()))
		b = appendUint(b, 3, im.applied)
		b = appendUint(b, 4, im.openTerm)
		return appendUint(b, 5, uint64(len(changes)))
	})
	for i := range changes {
		out.record(recordChange, func(b []byte) []byte { return appendChange(b, &changes[i], changes) })
	}
	for n := range im.view.Nodes() {
		out.record(recordNode, func(b []byte) []byte { return appendNodeOrReference(b, n, changes) })
	}
	for _, id := range im.promotions {
		out.record(recordPromotion, func(b []byte) []byte { return appendString(b, 1, id) })
	}
	if im.staged != nil {
		out.record(recordStaged, func(b []byte) []byte { return appendStaged(b, im.staged) })
		for _, n := range im.staged.nodes {
			out.record(recordStagedNode, func(b []byte) []byte { return appendNodeMessage(b, 1, n) })
		}
	}
	out.record(recordEnd, func(b []byte) []byte { return appendUint(b, 1, uint64(im.view.Len())) })
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
	panic(fmt.Sprintf("consensus: no format for %v", wanted))
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

// decodedSnapshot is what readSnapshot has read.
type decodedSnapshot struct {
	registry *domain.Registry
	staging  *staging // nil: there is none
	fsmSnapshot
}

// readSnapshot reads r to its end, and returns nothing before the checksum at the end is
// verified.
func readSnapshot(r io.Reader) (decodedSnapshot, error) {
	in := snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: crc32.New(castagnoli)}
	if err := in.header(); err != nil {
		return decodedSnapshot{}, err
	}
	for !in.endRead {
		if err := in.record(); err != nil {
			return decodedSnapshot{}, fmt.Errorf("snapshot: %w", err)
		}
	}
	if err := in.checksum(); err != nil {
		return decodedSnapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	registry, err := domain.RestoreRegistry(in.revision, in.nodes, in.changes)
	if err != nil {
		return decodedSnapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	in.image.view, in.image.staged = registry.View(), in.staging.freeze()
	return decodedSnapshot{registry: registry, staging: in.staging, fsmSnapshot: in.image}, nil
}

type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash32

	image            fsmSnapshot
	revision         domain.Revision
	announcedChanges uint64 // by the head
	headRead         bool
	endRead          bool
	changes          []domain.Change
	nodes            []*domain.CacheNode

	staging         *staging
	announcedStaged int // staged nodes
}

func (s *snapshotReader) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.r, b); err != nil {
		return nil, truncated(err)
	}
	s.sum.Write(b) // never fails
	return b, nil
}

// ReadByte is for binary.ReadUvarint.
func (s *snapshotReader) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b}) // never fails
	}
	return b, err
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	}
	return err
}

func (s *snapshotReader) header() error {
	header, err := s.read(len(snapshotMagic) + 1)
	switch {
	case err != nil:
		return fmt.Errorf("snapshot: %w", err)
	case string(header[:len(snapshotMagic)]) != snapshotMagic:
		return errors.New("snapshot: it does not begin like one")
	case header[len(snapshotMagic)] != snapshotVersion:
		return fmt.Errorf("snapshot has format version %d, this build reads %d: a newer build wrote it",
			header[len(snapshotMagic)], snapshotVersion)
	}
	return nil
}

func (s *snapshotReader) record() error {
	length, err := binary.ReadUvarint(s)
	if err != nil {
		return truncated(err)
	}
	if length > maxRecord {
		return fmt.Errorf("a record announces %d bytes, more than %d", length, maxRecord)
	}
	record, err := s.read(int(length))
	if err != nil {
		return err
	}
	return readFields(record, func(f *field) {
		if s.headRead != (f.number != recordHead) || s.endRead {
			f.fail(fmt.Errorf("record of kind %d is out of place", f.number))
			return
		}
		switch f.number {
		case recordHead:
			s.readHead(f)
		case recordChange:
			s.readChange(f)
		case recordNode:
			s.readNode(f)
		case recordPromotion:
			s.readPromotion(f)
		case recordStaged:
			s.readStaged(f)
		case recordStagedNode:
			s.readStagedNode(f)
		case recordEnd:
			s.readEnd(f)
		default:
			f.unknown()
		}
	})
}

func (s *snapshotReader) readHead(f *field) {
	s.headRead = true
	f.message(func(f *field) {
		switch f.number {
		case 1:
			s.image.clusterID = f.text()
		case 2:
			s.revision = domain.Revision(f.uint())
		case 3:
			s.image.applied = f.uint()
		case 4:
			s.image.openTerm = f.uint()
		case 5:
			s.announcedChanges = f.uint()
		default:
			f.unknown()
		}
	})
	if s.announcedChanges > uint64(s.revision) {
		f.fail(fmt.Errorf("%d changes do not fit before revision %d", s.announcedChanges, s.revision))
	}
}

// nextRevision is the revision of the change that is read next. The history ends at the
// registry's revision and has no gap.
func (s *snapshotReader) nextRevision() domain.Revision {
	return s.revision - domain.Revision(s.announcedChanges) + domain.Revision(len(s.changes)) + 1
}

func (s *snapshotReader) readChange(f *field) {
	c := domain.Change{Revision: s.nextRevision()}
	f.message(func(f *field) {
		switch f.number {
		case changeEffect:
			c.Effect = enumValue(f, effects)
		case changeReason:
			c.Reason = enumValue(f, reasons)
		case changeNode:
			n := f.node()
			c.Node = &n
		case changePreviousReference:
			c.Previous = s.referencedNode(f)
		case changePrevious:
			c.Previous = s.inlineNode(f)
		default:
			f.unknown()
		}
	})
	if c.Node == nil {
		c.Node = c.Previous
	}
	switch {
	case c.Node == nil || c.Effect == "" || c.Reason == "":
		f.fail(fmt.Errorf("the change of revision %d lacks its node, its effect or its reason", c.Revision))
	case !isConsistent(&c):
		f.fail(fmt.Errorf("the change of revision %d does not fit its nodes: %s, of revision %d", c.Revision, c.Effect, c.Node.Revision))
	case uint64(len(s.changes)) >= s.announcedChanges:
		f.fail(fmt.Errorf("more changes than the %d announced", s.announcedChanges))
	default:
		s.changes = append(s.changes, c)
	}
}

// isConsistent reports whether a registry can have made c. Otherwise an impossible change
// would be noticed only when the history is written again.
func isConsistent(c *domain.Change) bool {
	if c.Effect == domain.Removed {
		return c.Node == c.Previous
	}
	return c.Node.Revision == c.Revision && (c.Effect == domain.Added) == (c.Previous == nil)
}

func enumValue[T any](f *field, table []T) T {
	number := f.uint()
	if number == 0 || number >= uint64(len(table)) {
		f.fail(fmt.Errorf("field %d has the unknown value %d: a newer build wrote it", f.number, number))
		number = 0
	}
	return table[number]
}

// referencedNode reads a revision, and returns the node that its change made.
func (s *snapshotReader) referencedNode(f *field) *domain.CacheNode {
	revision := domain.Revision(f.uint())
	if len(s.changes) > 0 && revision >= s.changes[0].Revision && revision < s.nextRevision() {
		if c := s.changes[revision-s.changes[0].Revision]; c.Node.Revision == revision {
			return c.Node
		}
	}
	f.fail(fmt.Errorf("field %d refers to revision %d, whose change is not there or made no node", f.number, revision))
	return nil
}

// inlineNode reads a node that no change of the history made.
func (s *snapshotReader) inlineNode(f *field) *domain.CacheNode {
	n := f.node()
	if n.Revision > s.revision-domain.Revision(s.announcedChanges) {
		f.fail(fmt.Errorf("node %q of revision %d does not fit: the history has the change that made it", n.ID, n.Revision))
	}
	return &n
}

func (s *snapshotReader) readNode(f *field) {
	var n *domain.CacheNode
	f.message(func(f *field) {
		switch f.number {
		case nodeReference:
			n = s.referencedNode(f)
		case nodeInline:
			n = s.inlineNode(f)
		default:
			f.unknown()
		}
	})
	if n == nil {
		f.fail(errors.New("a node is empty"))
		return
	}
	s.nodes = append(s.nodes, n)
}

func (s *snapshotReader) readPromotion(f *field) {
	var id string
	f.message(onlyText(&id))
	if n := len(s.image.promotions); id == "" || n > 0 && s.image.promotions[n-1] >= id {
		f.fail(fmt.Errorf("the promotion of %q is out of place", id))
		return
	}
	s.image.promotions = append(s.image.promotions, id)
}

func (s *snapshotReader) readEnd(f *field) {
	s.endRead = true
	var nodes uint64
	f.message(onlyUint(&nodes))
	if uint64(len(s.nodes)) != nodes {
		f.fail(fmt.Errorf("%d nodes instead of %d", len(s.nodes), nodes))
	}
	if uint64(len(s.changes)) != s.announcedChanges {
		f.fail(fmt.Errorf("%d changes instead of %d", len(s.changes), s.announcedChanges))
	}
	s.checkStaged(f)
}

// checksum verifies the checksum, and that nothing follows it.
func (s *snapshotReader) checksum() error {
	sum := s.sum.Sum32()
	last := make([]byte, checksumSize)
	if _, err := io.ReadFull(s.r, last); err != nil {
		return truncated(err)
	}
	if binary.LittleEndian.Uint32(last) != sum {
		return errChecksum
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("it goes on behind its end"), err)
	}
	return nil
}
