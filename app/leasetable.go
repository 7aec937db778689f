package app

import (
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Expiry of a pool is held back when more than this share of its leased nodes,
// and more than this many, run out of time within one of their lifetimes: then
// the fault is more likely between them and this instance than theirs.
const (
	heldShare = 0.3
	heldOver  = 2
)

// leaseTable is how long each leased node has left, by a clock that its owner
// moves: time in which nobody could have renewed anything does not
// count. It reads no other clock, takes no lock, and decides who may expire.
type leaseTable struct {
	clock time.Duration
	nodes map[string]*lease
	pools map[string]*leasePool
	// troubled are the pools in which nodes are overdue, or expired of late.
	troubled map[string]*leasePool
	due      leaseHeap
}

// lease is the time that one node has.
type lease struct {
	id, pool string
	revision domain.Revision // of the node, when it last changed
	ttl      time.Duration
	renewed  time.Duration // on the table's clock
	again    bool          // renewed is when it was, and not when the lease began
	// usual is about how often the node is renewed; 0 while that is not known.
	usual time.Duration
	// expiring is closed when the outcome of an expiry that is on its way is
	// known; nil while there is none. Until then the node can't be renewed.
	expiring chan struct{}
	// forced: an operator wants it to expire.
	forced bool

	at    time.Duration // when the heap looks at it
	index int           // in the heap; -1: it is not in there
}

func (l *lease) end() time.Duration { return l.renewed + l.ttl }

// leasePool is what expiry has to know of the leased nodes of one pool.
type leasePool struct {
	leases  map[string]*lease
	overdue map[string]*lease
	lapses  []lapse // of late, oldest first
	held    bool
}

// lapse is a node that expired.
type lapse struct{ at, ttl time.Duration }

func newLeaseTable() *leaseTable {
	return &leaseTable{
		nodes: map[string]*lease{}, pools: map[string]*leasePool{}, troubled: map[string]*leasePool{},
	}
}

// fill makes the table hold what view holds. A lease that it has already, of the
// same node, goes on; any other begins now.
func (t *leaseTable) fill(view domain.View) {
	for id := range t.nodes {
		if n, known := view.Node(id); !known || !n.Expires() {
			t.drop(id)
		}
	}
	for n := range view.Nodes() {
		if known := t.nodes[n.ID]; n.Expires() && (known == nil || known.revision != n.Revision) {
			t.put(n)
		}
	}
}

// follow does what a change of the registry means to the table.
func (t *leaseTable) follow(change *domain.Change) {
	n := change.Node
	if change.Effect != domain.Removed && n.Expires() {
		t.put(n)
		return
	}
	l := t.nodes[n.ID]
	if l == nil {
		return
	}
	pool := t.pools[l.pool]
	if change.Reason == domain.ByExpiry && !l.forced {
		pool.lapses = append(pool.lapses, lapse{at: t.clock, ttl: l.ttl})
		t.troubled[l.pool] = pool
	}
	t.drop(n.ID)
}

// put gives n its full time, as it is now.
func (t *leaseTable) put(n *domain.CacheNode) {
	l := t.nodes[n.ID]
	if l == nil {
		l = &lease{id: n.ID, renewed: t.clock, index: -1}
		t.nodes[n.ID] = l
	} else {
		t.renew(l)
		t.leave(l)
	}
	l.pool, l.revision, l.ttl = n.Pool, n.Revision, time.Duration(n.TTLSeconds)*time.Second
	pool := t.pools[l.pool]
	if pool == nil {
		pool = &leasePool{leases: map[string]*lease{}, overdue: map[string]*lease{}}
		t.pools[l.pool] = pool
	}
	pool.leases[l.id] = l
	t.queue(l)
}

func (t *leaseTable) drop(id string) {
	l := t.nodes[id]
	delete(t.nodes, id)
	t.leave(l)
	if l.index >= 0 {
		heap.Remove(&t.due, l.index)
	}
}

func (t *leaseTable) leave(l *lease) {
	pool := t.pools[l.pool]
	delete(pool.leases, l.id)
	delete(pool.overdue, l.id)
	// One that is troubled is dropped by look: another one in its place would be
	// taken for it.
	if pool.empty() && t.troubled[l.pool] == nil {
		delete(t.pools, l.pool)
	}
}

// renew gives l its full time again.
func (t *leaseTable) renew(l *lease) {
	// How often it is renewed shows between two renewals, and not in how long it
	// was away. One short gap does not make a node one that is renewed that often.
	if gap := t.clock - l.renewed; l.again && gap < l.ttl {
		l.usual = max(gap, l.usual/2)
	}
	l.renewed, l.again = t.clock, true
	if pool := t.pools[l.pool]; pool.overdue[l.id] != nil {
		delete(pool.overdue, l.id)
		t.queue(l)
	}
}

// restart gives every lease its full time again, without taking that for a sign
// of life.
func (t *leaseTable) restart() {
	for _, pool := range t.pools {
		t.restartPool(pool)
	}
}

func (t *leaseTable) restartPool(pool *leasePool) {
	for _, l := range pool.leases {
		l.renewed, l.again = t.clock, false
	}
	for _, l := range pool.overdue {
		t.queue(l)
	}
	clear(pool.overdue)
}

// queue has the heap look at l when its time is over. A renewal leaves the heap
// alone: when the turn of l comes too early it is put back. So a renewal costs
// nothing, and a lease a few steps for each of its lifetimes.
func (t *leaseTable) queue(l *lease) {
	switch {
	case l.index < 0:
		l.at = l.end()
		heap.Push(&t.due, l)
	case l.at > l.end(): // its time to live got shorter
		l.at = l.end()
		heap.Fix(&t.due, l.index)
	}
}

// look finds who has run out of time, and gives the pools that begin to be held
// back, or go on, in ascending order. In a pool that goes on every lease begins
// anew.
func (t *leaseTable) look() (changed []string) {
	for len(t.due) > 0 && t.due[0].at <= t.clock {
		l := heap.Pop(&t.due).(*lease)
		if l.end() > t.clock {
			t.queue(l)
			continue
		}
		pool := t.pools[l.pool]
		pool.overdue[l.id] = l
		t.troubled[l.pool] = pool
	}
	for _, name := range slices.Sorted(maps.Keys(t.troubled)) {
		pool := t.troubled[name]
		pool.forget(t.clock)
		held := pool.tooMany(t.clock)
		if held != pool.held {
			pool.held = held
			changed = append(changed, name)
			if !held {
				// They come back one after the other: the last of them must not expire
				// because most are there again.
				t.restartPool(pool)
			}
		}
		if len(pool.overdue) == 0 && len(pool.lapses) == 0 {
			delete(t.troubled, name)
		}
		if pool.empty() {
			delete(t.pools, name)
		}
	}
	return changed
}

func (p *leasePool) empty() bool { return len(p.leases) == 0 && len(p.lapses) == 0 }

// forget drops the lapses that are longer ago than a lifetime.
func (p *leasePool) forget(now time.Duration) {
	p.lapses = slices.DeleteFunc(p.lapses, func(l lapse) bool { return now-l.at > l.ttl })
}

// tooMany reports whether so many nodes expire, or are about to, within one of
// their lifetimes that it is more likely a fault that they have in common.
func (p *leasePool) tooMany(now time.Duration) bool {
	if len(p.overdue) == 0 {
		return false
	}
	ending := len(p.lapses)
	for _, l := range p.leases {
		if l.late(now) {
			ending++
		}
	}
	all := len(p.leases) + len(p.lapses)
	return ending > heldOver && float64(ending) > heldShare*float64(all)
}

// late reports whether the node has missed a renewal: it has run out of time, or
// it will, by how it was renewed before. So when all stop at once that shows as
// soon as the first of them runs out of time, and not when a third of them has
// expired.
func (l *lease) late(now time.Duration) bool {
	age := now - l.renewed
	return age >= l.ttl || l.usual > 0 && age > l.ttl/2 && age > l.usual+l.usual/4
}

// expirable gives leases that have run out of time and may expire now, at most
// limit, and none of those that busy counts. Pools that are held back are left out
// unless only names one of them.
func (t *leaseTable) expirable(limit int, only *string, busy map[string]int) []*lease {
	var found []*lease
	for name, pool := range t.troubled {
		if only != nil && name != *only || only == nil && pool.held {
			continue
		}
		for _, l := range pool.overdue {
			if len(found) == limit {
				return found
			}
			if busy[l.id] == 0 && l.expiring == nil {
				found = append(found, l)
			}
		}
	}
	return found
}

func (t *leaseTable) heldPools() []ports.HeldPool {
	var held []ports.HeldPool
	for _, name := range slices.Sorted(maps.Keys(t.troubled)) {
		if pool := t.troubled[name]; pool.held && len(pool.overdue) > 0 {
			held = append(held, ports.HeldPool{Pool: name, Overdue: len(pool.overdue), Leased: len(pool.leases)})
		}
	}
	return held
}

// leaseHeap has the lease that is looked at next at its top.
type leaseHeap []*lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h leaseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *leaseHeap) Push(x any) {
	l := x.(*lease)
	l.index = len(*h)
	*h = append(*h, l)
}

func (h *leaseHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	last.index = -1
	return last
}
