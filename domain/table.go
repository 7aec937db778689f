package domain

import "slices"

// table is the immutable set of nodes of a view. The zero table is empty.
type table struct {
	order *tree
	rows  rows
}

func (t table) size() int { return t.order.size() }

// get returns the node named id, nil if there is none.
func (t table) get(id string) *CacheNode {
	row, found := t.order.get(id)
	if !found {
		return nil
	}
	return t.rows.get(row)
}

// ascend calls visit with the nodes in ascending order of id until visit returns false.
func (t table) ascend(visit func(*CacheNode) bool) {
	t.order.ascend(func(row int) bool { return visit(t.rows.get(row)) })
}

// list returns the nodes in ascending order of id.
func (t table) list() []*CacheNode {
	return slices.AppendSeq(make([]*CacheNode, 0, t.size()), t.ascend)
}

// rows holds nodes by row number. A node keeps its row when it is replaced, so an update
// leaves the tree alone and compares no ids. It is copied on write: versions of it share
// the pages (one for each thousand nodes) and leaves that are equal.
type rows []*page

type page struct {
	version uint64 // the version of the index that may modify it; later ones copy it
	leaves  [fanOut]*leaf
}

type leaf struct {
	version uint64 // as for page
	nodes   [fanOut]*CacheNode
}

const (
	fanOut     = 32 // leaves per page, and nodes per leaf
	rowsOfPage = fanOut * fanOut
)

// get returns the node in a row that has been set before.
func (r rows) get(row int) *CacheNode {
	return r[row/rowsOfPage].leaves[row/fanOut%fanOut].nodes[row%fanOut]
}

// index is the current table, with a map from id to row. Pages and leaves are modified in
// place, unless a view shares them: those are copied first.
type index struct {
	table
	version uint64         // grows with each view
	copied  uint64         // the version in which the list of pages was last copied
	at      map[string]int // id → row
	free    []int          // rows that no node has
}

// indexOf builds an index of nodes, which must be in ascending order of their ids.
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

// view returns the table, which later changes of the index do not affect.
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

// add adds a node, whose id must not be in the index yet.
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

// replace puts n in the row of the node that has its id, which must be in the index.
func (x *index) replace(n *CacheNode) { x.set(x.at[n.ID], n) }

// remove removes the node named id, which must be in the index.
func (x *index) remove(id string) {
	row := x.at[id]
	delete(x.at, id)
	x.free = append(x.free, row)
	x.order = x.order.remove(id)
	x.set(row, nil)
}

// set puts n in a row: an existing one, or the one after the last. It copies the list of
// pages, the page and the leaf first if a view shares them.
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
