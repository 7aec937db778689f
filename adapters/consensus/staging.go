package consensus

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// errNotStaged is the answer to a part or a commit whose earlier parts are not staged:
// leadership has changed in between, or another restore has begun. Nothing happened.
var errNotStaged = errors.New("the parts of the restore before this one are not there any more")

// staging holds the parts of a restore that have arrived. It is part of the replicated state.
type staging struct {
	id    string
	parts int
	nodes *domain.Replacement
}

// stagingFrom returns the staging of a snapshot; nil if it has none.
func stagingFrom(read codec.Restored) *staging {
	if read.Staged == nil {
		return nil
	}
	return &staging{id: read.Staged.ID, parts: read.Staged.Parts, nodes: read.StagedNodes}
}

// freeze returns a copy of s, which later changes of s do not affect; nil if s is nil.
func (s *staging) freeze() *codec.Staged {
	if s == nil {
		return nil
	}
	return &codec.Staged{ID: s.id, Parts: s.parts, Nodes: s.nodes.Nodes()}
}

// stage adds a part. If its nodes are refused, the staging is dropped, so that the commit
// is refused too.
func (m *machine) stage(part codec.RestorePart) error {
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

func (m *machine) commit(c codec.RestoreCommit) outcome {
	if !m.staged.hasParts(c.ID, c.Parts) {
		return outcome{err: errNotStaged}
	}
	replaced, err := m.registry.Replace(m.staged.nodes, c.Expected)
	m.staged = nil
	return outcome{replaced: replaced, err: err}
}

func (m *machine) abort(a codec.RestoreAbort) {
	if m.staged != nil && m.staged.id == a.ID {
		m.staged = nil
	}
}
