package domain

import "slices"

// table is a set of nodes as a view has it: it never changes. The zero table is empty.
type table struct {
	order *tree
	rows  rows
}

func (t table) size() int { return t.order.size() }

// get gives the node named id, nil when there is none.
func (t table) get(id string) *CacheNode {
	row, found := t.order.get(id)
	if !found {
		return nil
	}
	return t.rows.get(row)
}

// ascend visits the nodes in ascending order of id until visit says false.
func (t table) ascend(visit func(*CacheNode) bool) {
	t.order.ascend(func(row int) bool { return visit(t.rows.get(row)) })
}

// list gives the nodes in ascending order of id.
func (t table) list() []*CacheNode {
	nodes := make([]*CacheNode, 0, t.size())
	t.ascend(func(n *CacheNode) bool {
		nodes = append(nodes, n)
		return true
	})
	return nodes
}

// rows is a list of nodes, in which a node that is replaced keeps its place, so that
// nobody has to look for that by comparing ids. Versions of it share most of their
// pages, of which there is one for each thousand of nodes, and leaves.
type rows []*page

type page struct {
	version uint64 // of the index that may still change it
	leaves  [fanOut]*leaf
}

type leaf struct {
	version uint64
	nodes   [fanOut]*CacheNode
}

const (
	fanOut     = 32 // leaves of a page, and nodes of a leaf
	rowsOfPage = fanOut * fanOut
)

// get gives what is in a row that was set.
func (r rows) get(row int) *CacheNode {
	return r[row/rowsOfPage].leaves[row/fanOut%fanOut].nodes[row%fanOut]
}

// index is the table as it is now, and where in it a node is. It is changed in place,
// but for what a view has of it, which is copied first.
type index struct {
	table
	version uint64         // grows with each view
	copied  uint64         // the version in which the list of pages was
	at      map[string]int // id → row
	free    []int          // rows that nobody has
}

// indexOf takes nodes in ascending order of their ids.
func indexOf(nodes []*CacheNode) index {
	x := index{at: make(map[string]int, len(nodes))}
	entries := make([]entry, len(nodes))
	for row, n := range nodes {
		entries[row] = entry{n.ID, row}
		x.at[n.ID] = row
		x.set(row, n)
	}
	x.order = treeOf(entries)
	return x
}

// view gives the table, which stays as it is.
func (x *index) view() table {
	x.version++
	return x.table
}

// get is table.get, in constant time.
func (x *index) get(id string) *CacheNode {
	row, found := x.at[id]
	if !found {
		return nil
	}
	return x.rows.get(row)
}

// add takes in a node whose id is not there.
func (x *index) add(n *CacheNode) {
	row := len(x.at)
	if last := len(x.free) - 1; last >= 0 {
		row = x.free[last]
		x.free = x.free[:last]
	}
	x.at[n.ID] = row
	x.order = x.order.put(entry{n.ID, row})
	x.set(row, n)
}

// replace puts n in the place of the node with its id, which must be there.
func (x *index) replace(n *CacheNode) { x.set(x.at[n.ID], n) }

// remove takes out the node named id, which must be there.
func (x *index) remove(id string) {
	row := x.at[id]
	delete(x.at, id)
	x.free = append(x.free, row)
	x.order = x.order.remove(id)
	x.set(row, nil)
}

// set puts n in a row, which may be the one behind the last.
func (x *index) set(row int, n *CacheNode) {
	if x.copied != x.version {
		x.rows, x.copied = slices.Clone(x.rows), x.version
	}
	if row/rowsOfPage == len(x.rows) {
		x.rows = append(x.rows, &page{version: x.version})
	}
	p := &x.rows[row/rowsOfPage]
	if (*p).version != x.version {
		*p = &page{x.version, (*p).leaves}
	}
	l := &(*p).leaves[row/fanOut%fanOut]
	switch {
	case *l == nil:
		*l = &leaf{version: x.version}
	case (*l).version != x.version:
		*l = &leaf{x.version, (*l).nodes}
	}
	(*l).nodes[row%fanOut] = n
}
