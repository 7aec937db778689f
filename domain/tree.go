package domain

// tree is a persistent ordered map from node id to node: put and remove leave
// the old tree as it was and share most of it with the new one, so a view costs
// nothing and stays true for ever. Both take time and memory logarithmic in the
// number of nodes. The nil tree is empty.
//
// It is a weight-balanced tree with the parameters (3, 2) that Hirai and
// Yamamoto proved sufficient: "Balancing weight-balanced trees", Journal of
// Functional Programming 21 (2011).
type tree struct {
	left, right *tree
	count       int
	node        *CacheNode
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

func (t *tree) get(id string) *CacheNode {
	for t != nil {
		switch {
		case id < t.node.ID:
			t = t.left
		case id > t.node.ID:
			t = t.right
		default:
			return t.node
		}
	}
	return nil
}

func (t *tree) put(n *CacheNode) *tree {
	switch {
	case t == nil:
		return &tree{count: 1, node: n}
	case n.ID < t.node.ID:
		return balanced(t.left.put(n), t.node, t.right)
	case n.ID > t.node.ID:
		return balanced(t.left, t.node, t.right.put(n))
	}
	return &tree{left: t.left, right: t.right, count: t.count, node: n}
}

// replace puts n in the place of the node with its id, which must be there.
func (t *tree) replace(n *CacheNode) *tree {
	replaced := *t
	switch {
	case n.ID < t.node.ID:
		replaced.left = t.left.replace(n)
	case n.ID > t.node.ID:
		replaced.right = t.right.replace(n)
	default:
		replaced.node = n
	}
	return &replaced
}

// remove takes out the node named id, which must be there.
func (t *tree) remove(id string) *tree {
	switch {
	case id < t.node.ID:
		return balanced(t.left.remove(id), t.node, t.right)
	case id > t.node.ID:
		return balanced(t.left, t.node, t.right.remove(id))
	case t.left == nil:
		return t.right
	case t.right == nil:
		return t.left
	}
	rest, first := t.right.removeFirst()
	return balanced(t.left, first, rest)
}

func (t *tree) removeFirst() (*tree, *CacheNode) {
	if t.left == nil {
		return t.right, t.node
	}
	rest, first := t.left.removeFirst()
	return balanced(rest, t.node, t.right), first
}

// ascend visits the nodes in ascending order of id until visit says false.
func (t *tree) ascend(visit func(*CacheNode) bool) bool {
	return t == nil || t.left.ascend(visit) && visit(t.node) && t.right.ascend(visit)
}

// list gives the nodes in ascending order of id.
func (t *tree) list() []*CacheNode {
	nodes := make([]*CacheNode, 0, t.size())
	t.ascend(func(n *CacheNode) bool {
		nodes = append(nodes, n)
		return true
	})
	return nodes
}

// treeOf gives the tree of nodes that are in ascending order of id.
func treeOf(nodes []*CacheNode) *tree {
	if len(nodes) == 0 {
		return nil
	}
	middle := len(nodes) / 2
	return joined(treeOf(nodes[:middle]), nodes[middle], treeOf(nodes[middle+1:]))
}

func joined(left *tree, n *CacheNode, right *tree) *tree {
	return &tree{left: left, right: right, count: left.size() + right.size() + 1, node: n}
}

func heavier(a, b *tree) bool { return a.size()+1 > balanceDelta*(b.size()+1) }

func fitsSingle(inner, outer *tree) bool { return inner.size()+1 < balanceRatio*(outer.size()+1) }

func balanced(left *tree, n *CacheNode, right *tree) *tree {
	switch {
	case heavier(right, left):
		inner, outer := right.left, right.right
		if fitsSingle(inner, outer) {
			return joined(joined(left, n, inner), right.node, outer)
		}
		return joined(joined(left, n, inner.left), inner.node, joined(inner.right, right.node, outer))
	case heavier(left, right):
		outer, inner := left.left, left.right
		if fitsSingle(inner, outer) {
			return joined(outer, left.node, joined(inner, n, right))
		}
		return joined(joined(outer, left.node, inner.left), inner.node, joined(inner.right, n, right))
	}
	return joined(left, n, right)
}
