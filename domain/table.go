package domain

// table is a persistent set of nodes: a change leaves the old one as it was and shares
// most of it with the new one, so a view costs nothing and stays true for ever. The
// zero table is empty.
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

// rows is a persistent list of nodes, in which a node that is replaced keeps its
// place, so that nobody has to look for that by comparing ids. The root has one page
// for each thousand.
type rows []*page

type (
	page [rowsOfLeaf]*leaf
	leaf [rowsOfLeaf]*CacheNode
)

const (
	rowsOfLeaf = 1 << rowBits
	rowBits    = 5
	rowMask    = rowsOfLeaf - 1
)

// get gives what is in a row that was set.
func (r rows) get(row int) *CacheNode {
	return r[row>>(2*rowBits)][row>>rowBits&rowMask][row&rowMask]
}

// set puts n in a row, which may be the one behind the last.
func (r rows) set(row int, n *CacheNode) rows {
	atRoot, atPage := row>>(2*rowBits), row>>rowBits&rowMask
	changed := make(rows, max(len(r), atRoot+1))
	copy(changed, r)
	var (
		p page
		l leaf
	)
	if changed[atRoot] != nil {
		p = *changed[atRoot]
	}
	if p[atPage] != nil {
		l = *p[atPage]
	}
	l[row&rowMask] = n
	p[atPage] = &l
	changed[atRoot] = &p
	return changed
}

// rowsOf gives each node the row of its place.
func rowsOf(nodes []*CacheNode) rows {
	var r rows
	for row, n := range nodes {
		if row%(rowsOfLeaf*rowsOfLeaf) == 0 {
			r = append(r, &page{})
		}
		p := r[len(r)-1]
		if row%rowsOfLeaf == 0 {
			p[row>>rowBits&rowMask] = &leaf{}
		}
		p[row>>rowBits&rowMask][row&rowMask] = n
	}
	return r
}

// index is the table as it is now, and where in it a node is. It is changed in place.
type index struct {
	table
	at   map[string]int // id → row
	free []int          // rows that nobody has
}

// indexOf takes nodes in ascending order of their ids.
func indexOf(nodes []*CacheNode) index {
	x := index{at: make(map[string]int, len(nodes))}
	entries := make([]entry, len(nodes))
	for row, n := range nodes {
		entries[row] = entry{n.ID, row}
		x.at[n.ID] = row
	}
	x.table = table{treeOf(entries), rowsOf(nodes)}
	return x
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
	x.table = table{x.order.put(entry{n.ID, row}), x.rows.set(row, n)}
}

// replace puts n in the place of the node with its id, which must be there.
func (x *index) replace(n *CacheNode) { x.rows = x.rows.set(x.at[n.ID], n) }

// remove takes out the node named id, which must be there.
func (x *index) remove(id string) {
	row := x.at[id]
	delete(x.at, id)
	x.free = append(x.free, row)
	x.table = table{x.order.remove(id), x.rows.set(row, nil)}
}
