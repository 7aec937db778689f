package domain

import "iter"

// View is the registry at one revision. It is a small immutable value, safe for
// concurrent use. The zero View is the empty registry at revision 0.
type View struct {
	revision Revision
	nodes    table
	changes  []Change
}

// Revision is the revision of the registry that this view shows.
func (v View) Revision() Revision { return v.revision }

// Len is the number of nodes.
func (v View) Len() int { return v.nodes.size() }

// Node returns the node named id; false if there is none.
func (v View) Node(id string) (*CacheNode, bool) {
	n := v.nodes.get(id)
	return n, n != nil
}

// Nodes iterates over all nodes in ascending order of their ids.
func (v View) Nodes() iter.Seq[*CacheNode] {
	return func(yield func(*CacheNode) bool) { v.nodes.ascend(yield) }
}

// Since returns every change after revision, oldest first; false if the history
// does not reach back that far, or if revision is ahead of this view.
func (v View) Since(revision Revision) ([]Change, bool) {
	return since(v.changes, v.revision, revision)
}

// History returns all the changes that are kept, oldest first.
func (v View) History() []Change { return v.changes }
