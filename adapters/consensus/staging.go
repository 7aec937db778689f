package consensus

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A backup may be hundreds of megabytes, which is too much for one log entry: an entry that
// takes long to send delays all entries after it. So a backup goes through the log in parts,
// which every replica stages, and a commit that applies all of them in one step. Until then
// the registry is unchanged.

// restorePart is one part of the restore ID, numbered from 0. Part 0 replaces whatever was
// staged before.
type restorePart struct {
	ID     string
	Number int
	Nodes  []*domain.CacheNode
}

// restoreCommit replaces the registry with the staged nodes, if all Parts are staged, and
// Expected is nil or the registry's revision.
type restoreCommit struct {
	ID       string
	Parts    int
	Expected *domain.Revision
}

// restoreAbort drops what is staged of a restore that is given up.
type restoreAbort struct {
	ID string
}

// errNotStaged is the answer to a part or a commit whose earlier parts are not staged:
// leadership has changed in between, or another restore has begun. Nothing happened.
var errNotStaged = errors.New("the parts of the restore before this one are not there any more")

// staging holds the parts of a restore that have arrived. It is part of the replicated state.
type staging struct {
	id    string
	parts int
	nodes *domain.Replacement
}

// frozenStaging is an immutable copy of a staging.
type frozenStaging struct {
	id    string
	parts int
	nodes []*domain.CacheNode
}

// freeze returns a copy of s; nil if s is nil.
func (s *staging) freeze() *frozenStaging {
	if s == nil {
		return nil
	}
	return &frozenStaging{id: s.id, parts: s.parts, nodes: s.nodes.Nodes()}
}

// stage adds a part. If its nodes are refused, the staging is dropped, so that the commit
// is refused too.
func (m *machine) stage(part restorePart) error {
	switch {
	case part.Number == 0:
		m.staged = &staging{id: part.ID, nodes: domain.NewReplacement()}
	case !m.staged.hasParts(part.ID, part.Number):
		return errNotStaged
	}
	m.staged.parts++
	for _, n := range part.Nodes {
		if err := m.staged.nodes.Add(n); err != nil {
			m.staged = nil
			return &domain.Refusal{Err: fmt.Errorf("node %q: %w", n.ID, err), Revision: m.registry.View().Revision()}
		}
	}
	return nil
}

// hasParts reports whether s holds exactly that many parts of the restore id.
func (s *staging) hasParts(id string, parts int) bool {
	return s != nil && s.id == id && s.parts == parts
}

func (m *machine) commit(c restoreCommit) outcome {
	if !m.staged.hasParts(c.ID, c.Parts) {
		return outcome{err: errNotStaged}
	}
	replaced, err := m.registry.Replace(m.staged.nodes, c.Expected)
	m.staged = nil
	return outcome{replaced: replaced, err: err}
}

func (m *machine) abort(a restoreAbort) {
	if m.staged != nil && m.staged.id == a.ID {
		m.staged = nil
	}
}

func appendRestore(b []byte, entry any) []byte {
	switch entry := entry.(type) {
	case restorePart:
		b = appendString(b, 1, entry.ID)
		b = appendUint(b, 2, uint64(entry.Number))
		for _, n := range entry.Nodes {
			b = appendNodeMessage(b, 3, n)
		}
	case restoreCommit:
		b = appendString(b, 1, entry.ID)
		b = appendUint(b, 2, uint64(entry.Parts))
		if entry.Expected != nil {
			b = appendMessage(b, 3, func(b []byte) []byte { return appendUint(b, 1, uint64(*entry.Expected)) })
		}
	case restoreAbort:
		b = appendString(b, 1, entry.ID)
	}
	return b
}

var errNoRestoreID = errors.New("a restore without an id")

func decodeRestorePart(body []byte) (restorePart, error) {
	var part restorePart
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			part.ID = f.text()
		case 2:
			part.Number = f.int()
		case 3:
			n := f.node()
			part.Nodes = append(part.Nodes, &n)
		default:
			f.unknown()
		}
	})
	if err == nil && part.ID == "" {
		err = errNoRestoreID
	}
	return part, err
}

func decodeRestoreCommit(body []byte) (restoreCommit, error) {
	var c restoreCommit
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			c.ID = f.text()
		case 2:
			c.Parts = f.int()
		case 3:
			c.Expected = f.revision()
		default:
			f.unknown()
		}
	})
	if err == nil && c.ID == "" {
		err = errNoRestoreID
	}
	return c, err
}

// revision reads an optional revision, which may be 0.
func (f *field) revision() *domain.Revision {
	var revision uint64
	f.message(onlyUint(&revision))
	return (*domain.Revision)(&revision)
}

func decodeRestoreAbort(body []byte) (restoreAbort, error) {
	var a restoreAbort
	err := readFields(body, onlyText(&a.ID))
	if err == nil && a.ID == "" {
		err = errNoRestoreID
	}
	return a, err
}

func appendStaged(b []byte, s *frozenStaging) []byte {
	b = appendString(b, 1, s.id)
	b = appendUint(b, 2, uint64(s.parts))
	return appendUint(b, 3, uint64(len(s.nodes)))
}

func (s *snapshotReader) readStaged(f *field) {
	next := &staging{nodes: domain.NewReplacement()}
	f.message(func(f *field) {
		switch f.number {
		case 1:
			next.id = f.text()
		case 2:
			next.parts = f.int()
		case 3:
			s.announcedStaged = f.int()
		default:
			f.unknown()
		}
	})
	if s.staging != nil || next.id == "" || next.parts == 0 {
		f.fail(fmt.Errorf("the record of the staged restore %q is out of place", next.id))
		return
	}
	s.staging = next
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
	if n == nil || s.staging == nil {
		f.fail(errors.New("a staged node is empty or out of place"))
		return
	}
	if err := s.staging.nodes.Add(n); err != nil {
		f.fail(fmt.Errorf("the staged node %q: %w", n.ID, err))
	}
}

// checkStaged fails unless all announced staged nodes were read.
func (s *snapshotReader) checkStaged(f *field) {
	held := 0
	if s.staging != nil {
		held = len(s.staging.nodes.Nodes())
	}
	if held != s.announcedStaged {
		f.fail(fmt.Errorf("%d staged nodes instead of %d", held, s.announcedStaged))
	}
}
