package consensus

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A backup may be hundreds of megabytes, and an entry of the log should not: one
// that takes long to send holds up all behind it. So a backup goes through the log
// in parts, which are staged on every replica, and a commit that carries all of
// them out in one step. Until then the registry is as it was.

// restorePart is the part Number, from 0, of the restore ID. Part 0 takes the place
// of whatever was staged before.
type restorePart struct {
	ID     string
	Number int
	Nodes  []*domain.CacheNode
}

// restoreCommit replaces the registry with the Parts that were staged, if Expected
// is nil or the registry's revision.
type restoreCommit struct {
	ID       string
	Parts    int
	Expected *domain.Revision
}

// restoreAbort says that the rest of a restore does not come.
type restoreAbort struct {
	ID string
}

// errNotStaged is the answer to a part that does not follow what is staged, and to
// the commit of what is not: leadership has moved in between, or another restore
// has begun. Nothing happened.
var errNotStaged = errors.New("the parts of the restore before this one are not there any more")

// staging is what has arrived of a restore. It is part of the replicated state.
type staging struct {
	id    string
	parts int
	nodes *domain.Replacement
}

// staged is a staging as it was at one moment; it never changes.
type staged struct {
	id    string
	parts int
	nodes []*domain.CacheNode
}

// seen gives what s holds now; nil is nothing.
func (s *staging) seen() *staged {
	if s == nil {
		return nil
	}
	return &staged{id: s.id, parts: s.parts, nodes: s.nodes.Nodes()}
}

// stage takes a part. What does not fit together is given up: its commit is
// refused then.
func (m *machine) stage(part restorePart) error {
	switch {
	case part.Number == 0:
		m.staged = &staging{id: part.ID, nodes: domain.NewReplacement()}
	case !m.staged.holds(part.ID, part.Number):
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

// holds reports whether s is so many parts of the restore named id.
func (s *staging) holds(id string, parts int) bool {
	return s != nil && s.id == id && s.parts == parts
}

func (m *machine) commit(c restoreCommit) outcome {
	if !m.staged.holds(c.ID, c.Parts) {
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

var errNameless = errors.New("a restore without an id")

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
		err = errNameless
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
		err = errNameless
	}
	return c, err
}

// revision reads one that may be 0, and is left out where there is none.
func (f *field) revision() *domain.Revision {
	var revision domain.Revision
	f.message(func(f *field) {
		switch f.number {
		case 1:
			revision = domain.Revision(f.uint())
		default:
			f.unknown()
		}
	})
	return &revision
}

func decodeRestoreAbort(body []byte) (restoreAbort, error) {
	var a restoreAbort
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			a.ID = f.text()
		default:
			f.unknown()
		}
	})
	if err == nil && a.ID == "" {
		err = errNameless
	}
	return a, err
}

func appendStaged(b []byte, s *staged) []byte {
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
			s.stagedNodes = f.int()
		default:
			f.unknown()
		}
	})
	if s.staging != nil || next.id == "" || next.parts == 0 {
		f.fail(fmt.Errorf("what is staged of the restore %q is out of place", next.id))
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

// checkStaged fails unless all staged nodes that were announced are there.
func (s *snapshotReader) checkStaged(f *field) {
	held := 0
	if s.staging != nil {
		held = len(s.staging.nodes.Nodes())
	}
	if held != s.stagedNodes {
		f.fail(fmt.Errorf("%d staged nodes instead of %d", held, s.stagedNodes))
	}
}
