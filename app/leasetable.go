package app

import (
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Expiry of a pool is held back when more than heldShare of its leased nodes, and more than
// heldOver nodes, run out of time within one lifetime: then the fault more likely lies
// between them and this instance.
const (
	heldShare = 0.3
	heldOver  = 2
)

// leaseTable knows how long each leased node has left, and decides which may expire. Its
// owner advances its clock, which leaves out the time in which nobody could renew. It reads
// no other clock and takes no lock.
type leaseTable struct {
	clock time.Duration
	nodes map[string]*lease
	pools map[string]*leasePool
	// troubled are the pools with nodes that are overdue, or that expired lately.
	troubled map[string]*leasePool
	due      leaseHeap
}

// lease is the lease of one node.
type lease struct {
	id, pool   string
	revision   domain.Revision // of the node
	ttl        time.Duration
	renewed    time.Duration // on the table's clock
	wasRenewed bool          // renewed is the time of a renewal, not the beginning of the lease
	// interval is about how often the node renews; 0: unknown.
	interval time.Duration
	// expiring is closed when the expiry that is on its way is done; nil if there is none.
	// Until then the node can't be renewed.
	expiring chan struct{}
	// forced: an operator asked for the expiry.
	forced bool

	checkAt time.Duration // when findOverdue checks it next
	index   int           // in the heap; -1: it is not in the heap
}

func (l *lease) end() time.Duration { return l.renewed + l.ttl }

// leasePool is the leases of one pool.
type leasePool struct {
	leases  map[string]*lease
	overdue map[string]*lease // those that have run out
	lapses  []lapse           // the recent ones, oldest first
	held    bool              // expiry is held back
}

// lapse is a lease that expired: when, and what its ttl was.
type lapse struct{ at, ttl time.Duration }

func newLeaseTable() *leaseTable {
	return &leaseTable{
		nodes: map[string]*lease{}, pools: map[string]*leasePool{}, troubled: map[string]*leasePool{},
	}
}

// fill makes the table hold the leases of view. A lease of a node that has not changed goes
// on; any other begins now.
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

// follow applies a change of the registry to the table.
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

// put adds or replaces the lease of n, with its full time.
func (t *leaseTable) put(n *domain.CacheNode) {
	l := t.nodes[n.ID]
	if l == nil {
		l = &lease{id: n.ID, renewed: t.clock, index: -1}
		t.nodes[n.ID] = l
	} else {
		t.renew(l)
		t.leavePool(l)
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
	t.leavePool(l)
	if l.index >= 0 {
		heap.Remove(&t.due, l.index)
	}
}

func (t *leaseTable) leavePool(l *lease) {
	pool := t.pools[l.pool]
	delete(pool.leases, l.id)
	delete(pool.overdue, l.id)
	// findOverdue drops an empty pool that is troubled. If it were dropped here, a new
	// pool of that name would not be the one in troubled.
	if pool.empty() && t.troubled[l.pool] == nil {
		delete(t.pools, l.pool)
	}
}

// renew gives l its full time again.
func (t *leaseTable) renew(l *lease) {
	// Only the time between two renewals within the ttl tells how often the node renews.
	// One short gap must not make the interval that short, so it at most halves.
	if gap := t.clock - l.renewed; l.wasRenewed && gap < l.ttl {
		l.interval = max(gap, l.interval/2)
	}
	l.renewed, l.wasRenewed = t.clock, true
	if pool := t.pools[l.pool]; pool.overdue[l.id] != nil {
		delete(pool.overdue, l.id)
		t.queue(l)
	}
}

// restart gives every lease its full time again. It does not count as a renewal.
func (t *leaseTable) restart() {
	for _, pool := range t.pools {
		t.restartPool(pool)
	}
}

func (t *leaseTable) restartPool(pool *leasePool) {
	for _, l := range pool.leases {
		l.renewed, l.wasRenewed = t.clock, false
	}
	for _, l := range pool.overdue {
		t.queue(l)
	}
	clear(pool.overdue)
}

// queue puts l into the heap, to be checked when its time is over. A renewal does not touch
// the heap: findOverdue puts l back if it comes up too early. So a renewal costs nothing,
// and a lease costs one heap operation for each of its lifetimes.
func (t *leaseTable) queue(l *lease) {
	switch {
	case l.index < 0:
		l.checkAt = l.end()
		heap.Push(&t.due, l)
	case l.checkAt > l.end(): // its time to live got shorter
		l.checkAt = l.end()
		heap.Fix(&t.due, l.index)
	}
}

// findOverdue moves the leases that have run out to overdue, and returns the pools that
// begin or cease to be held back, in ascending order. In a pool that ceases to be, every
// lease gets its full time again.
func (t *leaseTable) findOverdue() (changed []string) {
	for len(t.due) > 0 && t.due[0].checkAt <= t.clock {
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
		pool.dropOldLapses(t.clock)
		held := pool.tooMany(t.clock)
		if held != pool.held {
			pool.held = held
			changed = append(changed, name)
			if !held {
				// The nodes come back one by one. The last ones must not expire as soon
				// as most are back.
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

// dropOldLapses drops the lapses that are longer ago than their ttl.
func (p *leasePool) dropOldLapses(now time.Duration) {
	p.lapses = slices.DeleteFunc(p.lapses, func(l lapse) bool { return now-l.at > l.ttl })
}

// tooMany reports whether so many nodes have expired, or are about to, within one lifetime
// that they more likely have a fault in common.
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

// late reports whether the node has missed a renewal: it has run out of time, or is overdue
// by its usual interval. So if all nodes stop at once, that shows when the first one runs
// out of time, and not only when a third of them has expired.
func (l *lease) late(now time.Duration) bool {
	age := now - l.renewed
	return age >= l.ttl || l.interval > 0 && age > l.ttl/2 && age > l.interval+l.interval/4
}

// expirable returns at most limit leases that have run out and may expire now. It leaves
// out pinned nodes, and pools that are held back. If only is not nil, it returns leases of
// that pool alone, even if it is held back.
func (t *leaseTable) expirable(limit int, only *string, pinned map[string]int) []*lease {
	var found []*lease
	for name, pool := range t.troubled {
		if only != nil && name != *only || only == nil && pool.held {
			continue
		}
		for _, l := range pool.overdue {
			if len(found) == limit {
				return found
			}
			if pinned[l.id] == 0 && l.expiring == nil {
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

// leaseHeap implements heap.Interface, ordered by checkAt.
type leaseHeap []*lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].checkAt < h[j].checkAt }
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
