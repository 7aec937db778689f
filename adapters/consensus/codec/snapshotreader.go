package codec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Restored is what ReadSnapshot returns: the snapshot, and the same state in the form with
// which a state machine continues.
type Restored struct {
	Snapshot
	Registry    *domain.Registry    // View is its view
	StagedNodes *domain.Replacement // the nodes of Staged; nil if Staged is nil
}

// ReadSnapshot reads a snapshot, which must end where r ends. It returns an error for one that
// is damaged, cut off, or written by a newer build.
func ReadSnapshot(r io.Reader) (Restored, error) {
	in := snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: crc32.New(castagnoli)}
	if err := in.header(); err != nil {
		return Restored{}, err
	}
	for !in.endRead {
		if err := in.record(); err != nil {
			return Restored{}, fmt.Errorf("snapshot: %w", err)
		}
	}
	if err := in.checksum(); err != nil {
		return Restored{}, fmt.Errorf("snapshot: %w", err)
	}
	registry, err := domain.RestoreRegistry(in.revision, in.nodes, in.changes)
	if err != nil {
		return Restored{}, fmt.Errorf("snapshot: %w", err)
	}
	in.image.View = registry.View()
	if in.image.Staged != nil {
		in.image.Staged.Nodes = in.staged.Nodes()
	}
	return Restored{Snapshot: in.image, Registry: registry, StagedNodes: in.staged}, nil
}

type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash32

	image            Snapshot
	revision         domain.Revision
	announcedChanges uint64 // by the head
	headRead         bool
	endRead          bool
	changes          []domain.Change
	nodes            []*domain.CacheNode

	staged          *domain.Replacement // nil without a staged restore
	announcedStaged int                 // staged nodes
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
			s.image.ClusterID = f.text()
		case 2:
			s.revision = domain.Revision(f.uint())
		case 3:
			s.image.Applied = f.uint()
		case 4:
			s.image.OpenTerm = f.uint()
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
	if n := len(s.image.Promotions); id == "" || n > 0 && s.image.Promotions[n-1] >= id {
		f.fail(fmt.Errorf("the promotion of %q is out of place", id))
		return
	}
	s.image.Promotions = append(s.image.Promotions, id)
}

func (s *snapshotReader) readStaged(f *field) {
	var next Staged
	f.message(func(f *field) {
		switch f.number {
		case 1:
			next.ID = f.text()
		case 2:
			next.Parts = f.int()
		case 3:
			s.announcedStaged = f.int()
		default:
			f.unknown()
		}
	})
	if s.staged != nil || next.ID == "" || next.Parts == 0 {
		f.fail(fmt.Errorf("the record of the staged restore %q is out of place", next.ID))
		return
	}
	s.image.Staged, s.staged = &next, domain.NewReplacement()
}

func (s *snapshotReader) readStagedNode(f *field) {
	var n *domain.CacheNode
	f.message(func(f *field) {
		switch f.number {
		case 1:
			read := f.node()
			n = &read
		default:
			f.unknown()
		}
	})
	if n == nil || s.staged == nil {
		f.fail(errors.New("a staged node is empty or out of place"))
		return
	}
	if err := s.staged.Add(n); err != nil {
		f.fail(fmt.Errorf("the staged node %q: %w", n.ID, err))
	}
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

// checkStaged fails unless all announced staged nodes were read.
func (s *snapshotReader) checkStaged(f *field) {
	held := 0
	if s.staged != nil {
		held = len(s.staged.Nodes())
	}
	if held != s.announcedStaged {
		f.fail(fmt.Errorf("%d staged nodes instead of %d", held, s.announcedStaged))
	}
}

// checksum verifies the checksum, and that nothing follows it.
func (s *snapshotReader) checksum() error {
	sum := s.sum.Sum32()
	last := make([]byte, checksumSize)
	if _, err := io.ReadFull(s.r, last); err != nil {
		return truncated(err)
	}
	if binary.LittleEndian.Uint32(last) != sum {
		return ErrChecksum
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("it goes on behind its end"), err)
	}
	return nil
}
