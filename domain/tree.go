package domain

// tree is a persistent ordered map from node id to the row that the node has: put and
// remove leave the old tree as it was and share most of it with the new one. Both
// take time and memory logarithmic in the number of nodes. The nil tree is empty.
//
// It is a weight-balanced tree with the parameters (3, 2) that Hirai and
// Yamamoto proved sufficient: "Balancing weight-balanced trees", Journal of
// Functional Programming 21 (2011).
type tree struct {
	left, right *tree
	count       int
	entry
}

// entry says in which row the node with an id is.
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

// get gives the row of the node named id; false when there is none.
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

// put takes in an entry whose id is not there.
func (t *tree) put(e entry) *tree {
	switch {
	case t == nil:
		return joined(nil, e, nil)
	case e.id < t.id:
		return balanced(t.left.put(e), t.entry, t.right)
	}
	return balanced(t.left, t.entry, t.right.put(e))
}

// remove takes out the entry of id, which must be there.
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

// ascend visits the rows in ascending order of id until visit says false.
func (t *tree) ascend(visit func(row int) bool) bool {
	return t == nil || t.left.ascend(visit) && visit(t.row) && t.right.ascend(visit)
}

// treeOf gives the tree of entries that are in ascending order of id.
func treeOf(entries []entry) *tree {
	if len(entries) == 0 {
		return nil
	}
	middle := len(entries) / 2
	return joined(treeOf(entries[:middle]), entries[middle], treeOf(entries[middle+1:]))
}

func joined(left *tree, e entry, right *tree) *tree {
	return &tree{left: left, right: right, count: left.size() + right.size() + 1, entry: e}
}

func heavier(a, b *tree) bool { return a.size()+1 > balanceDelta*(b.size()+1) }

func fitsSingle(inner, outer *tree) bool { return inner.size()+1 < balanceRatio*(outer.size()+1) }

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
