package app

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// timed is a lease table with the registry that it follows, on a clock that the test
// moves. Overdue nodes that are not held expire at once, unless keep is set.
type timed struct {
	*leaseTable
	t        *testing.T
	registry *domain.Registry
	keep     bool
	gone     map[string]time.Duration // when each node expired last
	changed  []string                 // the pools that look gave
	busy     map[string]int           // writes that are on their way
}

func newTimed(t *testing.T) *timed {
	return &timed{leaseTable: newLeaseTable(), t: t, registry: domain.NewRegistry(), gone: map[string]time.Duration{}, busy: map[string]int{}}
}

// leased is a node of pool p that lives for some seconds; 0: for ever.
func leased(id string, ttl int) domain.CacheNode {
	return domain.CacheNode{
		ID: id, Address: id + ".example:11211", Pool: "p", Weight: 1,
		State: domain.Active, TTLSeconds: ttl, OnExpiry: domain.RemoveOnExpiry,
	}
}

// but gives n with a change.
func but(n domain.CacheNode, change func(*domain.CacheNode)) domain.CacheNode {
	change(&n)
	return n
}

func (tt *timed) apply(cmd domain.Command) {
	tt.t.Helper()
	changes, err := tt.registry.Apply(cmd)
	if err != nil {
		tt.t.Fatal(err)
	}
	for i := range changes {
		if changes[i].Effect != domain.Unchanged {
			tt.follow(&changes[i])
		}
	}
	tt.mustBeSound()
}

func (tt *timed) register(n domain.CacheNode) { tt.t.Helper(); tt.apply(domain.Register{Node: n}) }

func (tt *timed) sign(ids ...string) {
	tt.t.Helper()
	for _, id := range ids {
		if tt.nodes[id] == nil {
			tt.t.Fatalf("%s has no lease", id)
		}
		tt.renew(tt.nodes[id])
	}
	tt.mustBeSound()
}

// pass moves the clock in the steps that the leader takes.
func (tt *timed) pass(d time.Duration) {
	tt.t.Helper()
	for d > 0 {
		step := min(d, leaseTick)
		d -= step
		tt.clock += step
		tt.turn()
	}
}

func (tt *timed) turn() {
	tt.t.Helper()
	tt.changed = append(tt.changed, tt.findOverdue()...)
	tt.mustBeSound()
	if !tt.keep {
		tt.expire(nil)
	}
}

// expire expires the overdue nodes that are not held, or all of the given pool.
func (tt *timed) expire(pool *string) {
	tt.t.Helper()
	var cmd domain.Expire
	for _, l := range tt.expirable(domain.MaxBatch, pool, tt.busy) {
		l.forced = pool != nil
		cmd.Nodes = append(cmd.Nodes, domain.NodeAt{ID: l.id, Revision: l.revision})
		tt.gone[l.id] = tt.clock
	}
	if len(cmd.Nodes) > 0 {
		tt.apply(cmd)
	}
}

func (tt *timed) overdue() []string {
	var ids []string
	for _, l := range tt.nodes {
		if l.index < 0 {
			ids = append(ids, l.id)
		}
	}
	return slices.Sorted(slices.Values(ids))
}

func (tt *timed) mustHaveOverdue(want ...string) {
	tt.t.Helper()
	if got := tt.overdue(); !slices.Equal(got, want) {
		tt.t.Fatalf("overdue nodes at %v = %q, want %q", tt.clock, got, want)
	}
}

// mustBeSound checks that the indexes of the table agree.
func (tt *timed) mustBeSound() {
	tt.t.Helper()
	if len(tt.due) > len(tt.nodes) {
		tt.t.Fatalf("the heap has %d entries for %d leases", len(tt.due), len(tt.nodes))
	}
	for i, l := range tt.due {
		if l.index != i || tt.nodes[l.id] != l {
			tt.t.Fatalf("the heap has a lease of %s that is not in the table", l.id)
		}
		if l.checkAt > l.end() {
			tt.t.Fatalf("lease of %s ends at %v, but is checked only at %v", l.id, l.end(), l.checkAt)
		}
	}
	leases := 0
	for name, pool := range tt.pools {
		leases += len(pool.leases)
		for id, l := range pool.leases {
			if l.pool != name || tt.nodes[id] != l {
				tt.t.Fatalf("pool %s has a lease of %s that is not in the table", name, id)
			}
			if (l.index < 0) != (pool.overdue[id] == l) {
				tt.t.Fatalf("%s must be either in the heap or overdue", id)
			}
		}
		if pool.empty() && tt.troubled[name] == nil {
			tt.t.Fatalf("pool %s is empty, but kept", name)
		}
	}
	if leases != len(tt.nodes) {
		tt.t.Fatalf("the pools have %d leases, the table %d", leases, len(tt.nodes))
	}
	for name, pool := range tt.troubled {
		if tt.pools[name] != pool {
			tt.t.Fatalf("pool %s exists twice", name)
		}
	}
}

// turnKept looks without expiring any node.
func (tt *timed) turnKept() (changed []string) {
	tt.t.Helper()
	tt.keep, tt.changed = true, nil
	tt.turn()
	return tt.changed
}

// pooled is a table with n nodes in each of the pools, which live for 10 s.
func pooled(t *testing.T, n int, pools ...string) *timed {
	tt := newTimed(t)
	for _, pool := range pools {
		for i := range n {
			tt.register(but(leased(member(pool, i), 10), func(n *domain.CacheNode) { n.Pool = pool }))
		}
	}
	return tt
}

func member(pool string, i int) string { return fmt.Sprintf("%s%d", pool, i) }

// members are those of pool from first to last.
func members(pool string, first, last int) []string {
	var ids []string
	for i := first; i <= last; i++ {
		ids = append(ids, member(pool, i))
	}
	return ids
}

// passWith renews the given nodes each second for a time.
func (tt *timed) passWith(seconds int, renewed ...string) {
	tt.t.Helper()
	for range seconds {
		tt.sign(renewed...)
		tt.pass(time.Second)
	}
}

func (tt *timed) mustHold(want ...ports.HeldPool) {
	tt.t.Helper()
	if got := tt.heldPools(); !reflect.DeepEqual(got, want) {
		tt.t.Fatalf("held pools at %v = %+v, want %+v", tt.clock, got, want)
	}
}

func (tt *timed) mustHaveLost(n int) {
	tt.t.Helper()
	if len(tt.gone) != n {
		tt.t.Fatalf("expired nodes at %v = %d, want %d: %v", tt.clock, len(tt.gone), n, tt.gone)
	}
}

// agents renew a pool of nodes, each of them every so often, beginning at
// different moments.
type agents struct {
	*timed
	every time.Duration
	due   map[string]time.Duration // when each is renewed next; who is not in there has stopped
}

func employ(tt *timed, every time.Duration, ids ...string) *agents {
	a := &agents{timed: tt, every: every, due: map[string]time.Duration{}}
	for i, id := range ids {
		a.due[id] = tt.clock + every*time.Duration(i+1)/time.Duration(len(ids))
	}
	return a
}

// work lets d pass while the agents renew.
func (a *agents) work(d time.Duration) {
	a.t.Helper()
	for end := a.clock + d; a.clock < end; {
		a.pass(leaseTick)
		for id, at := range a.due {
			if at <= a.clock {
				a.renew(a.nodes[id])
				a.due[id] = at + a.every
			}
		}
	}
}

func (a *agents) stop(ids ...string) {
	for _, id := range ids {
		delete(a.due, id)
	}
}
