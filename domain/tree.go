package domain

// tree is a persistent ordered map from a node's id to its row in rows. put and remove
// return a new tree that shares most of its memory with the old one, which stays as it
// was. Both take time and memory logarithmic in the number of nodes. The nil tree is empty.
//
// It is a weight-balanced tree with the parameters (3, 2) that Hirai and
// Yamamoto proved sufficient: "Balancing weight-balanced trees", Journal of
// Functional Programming 21 (2011).
type tree struct {
	left, right *tree
	count       int
	entry
}

// entry is the id of a node and the row that the node is in.
type entry struct {
	id  string
	row int
}

const (
	balanceDelta = 3
	balanceRatio = 2
)

func (t *tree) size() int {
	if t == nil {
		return 0
	}
	return t.count
}

// get returns the row of the node named id; false if there is none.
func (t *tree) get(id string) (row int, found bool) {
	for t != nil {
		switch {
		case id < t.id:
			t = t.left
		case id > t.id:
			t = t.right
		default:
			return t.row, true
		}
	}
	return 0, false
}

// put adds an entry, whose id must not be in the tree yet.
func (t *tree) put(e entry) *tree {
	switch {
	case t == nil:
		return joined(nil, e, nil)
	case e.id < t.id:
		return balanced(t.left.put(e), t.entry, t.right)
	}
	return balanced(t.left, t.entry, t.right.put(e))
}

// remove removes the entry of id, which must be in the tree.
func (t *tree) remove(id string) *tree {
	switch {
	case id < t.id:
		return balanced(t.left.remove(id), t.entry, t.right)
	case id > t.id:
		return balanced(t.left, t.entry, t.right.remove(id))
	case t.left == nil:
		return t.right
	case t.right == nil:
		return t.left
	}
	rest, first := t.right.removeFirst()
	return balanced(t.left, first, rest)
}

func (t *tree) removeFirst() (*tree, entry) {
	if t.left == nil {
		return t.right, t.entry
	}
	rest, first := t.left.removeFirst()
	return balanced(rest, t.entry, t.right), first
}

// ascend calls visit with the rows in ascending order of id until visit returns false.
func (t *tree) ascend(visit func(row int) bool) bool {
	return t == nil || t.left.ascend(visit) && visit(t.row) && t.right.ascend(visit)
}

// treeOf builds a tree of entries, which must be in ascending order of id.
func treeOf(entries []entry) *tree {
	if len(entries) == 0 {
		return nil
	}
	middle := len(entries) / 2
	return joined(treeOf(entries[:middle]), entries[middle], treeOf(entries[middle+1:]))
}

// joined returns the tree with e at its root.
func joined(left *tree, e entry, right *tree) *tree {
	return &tree{left: left, right: right, count: left.size() + right.size() + 1, entry: e}
}

// heavier reports whether a has too many entries to be the sibling of b.
func heavier(a, b *tree) bool { return a.size()+1 > balanceDelta*(b.size()+1) }

// fitsSingle reports whether a single rotation restores the balance.
func fitsSingle(inner, outer *tree) bool { return inner.size()+1 < balanceRatio*(outer.size()+1) }

// balanced is joined, with the rotation that left and right need after one put or remove.
func balanced(left *tree, e entry, right *tree) *tree {
	switch {
	case heavier(right, left):
		inner, outer := right.left, right.right
		if fitsSingle(inner, outer) {
			return joined(joined(left, e, inner), right.entry, outer)
		}
		return joined(joined(left, e, inner.left), inner.entry, joined(inner.right, right.entry, outer))
	case heavier(left, right):
		outer, inner := left.left, left.right
		if fitsSingle(inner, outer) {
			return joined(outer, left.entry, joined(inner, e, right))
		}
		return joined(joined(outer, left.entry, inner.left), inner.entry, joined(inner.right, e, right))
	}
	return joined(left, e, right)
}
