package app

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestLeaseEnds(t *testing.T) {
	const s = time.Second
	down := func(n *domain.CacheNode) { n.OnExpiry = domain.DownOnExpiry }
	tests := map[string]struct {
		given domain.CacheNode
		then  func(tt *timed) // at 1.5 s
		ends  time.Duration   // 0: never
	}{
		"without a sign of life it ends after its time":   {leased("a", 2), func(*timed) {}, 2 * s},
		"the longest time to live ends, too":              {leased("a", domain.MaxTTLSeconds), func(*timed) {}, 24 * time.Hour},
		"a node without a time to live has no lease":      {leased("a", 0), func(*timed) {}, 0},
		"a renewal gives it its full time again":          {leased("a", 2), func(tt *timed) { tt.sign("a") }, 3500 * time.Millisecond},
		"an update gives it its full time again":          {leased("a", 2), func(tt *timed) { tt.register(but(leased("a", 2), func(n *domain.CacheNode) { n.Weight = 2 })) }, 3500 * time.Millisecond},
		"a move to another pool gives it its full time":   {leased("a", 2), func(tt *timed) { tt.register(but(leased("a", 2), func(n *domain.CacheNode) { n.Pool = "q" })) }, 3500 * time.Millisecond},
		"a shorter time counts from when it was given":    {leased("a", 60), func(tt *timed) { tt.register(leased("a", 2)) }, 3500 * time.Millisecond},
		"a longer time counts from when it was given":     {leased("a", 2), func(tt *timed) { tt.register(leased("a", 60)) }, 61500 * time.Millisecond},
		"a time that is taken away leaves no lease":       {leased("a", 2), func(tt *timed) { tt.register(leased("a", 0)) }, 0},
		"a time that is given counts from then":           {leased("a", 0), func(tt *timed) { tt.register(leased("a", 2)) }, 3500 * time.Millisecond},
		"a removed node has no lease":                     {leased("a", 2), func(tt *timed) { tt.apply(domain.Deregister{ID: "a"}) }, 0},
		"a new node with the same id has a new lease":     {leased("a", 2), func(tt *timed) { tt.apply(domain.Deregister{ID: "a"}); tt.register(leased("a", 3)) }, 4500 * time.Millisecond},
		"a restart gives it its full time again":          {leased("a", 2), func(tt *timed) { tt.restart() }, 3500 * time.Millisecond},
		"a node that is down has no lease":                {but(leased("a", 2), func(n *domain.CacheNode) { down(n); n.State = domain.Down }), func(*timed) {}, 0},
		"a node that is down and will be removed has one": {but(leased("a", 2), func(n *domain.CacheNode) { n.State = domain.Down }), func(*timed) {}, 2 * s},
		"a node that a client puts down has no lease": {but(leased("a", 2), down), func(tt *timed) {
			tt.register(but(leased("a", 2), func(n *domain.CacheNode) { down(n); n.State = domain.Down }))
		}, 0},
		"a node that a client puts up again has a new lease": {but(leased("a", 2), func(n *domain.CacheNode) { down(n); n.State = domain.Down }), func(tt *timed) { tt.register(but(leased("a", 2), down)) }, 3500 * time.Millisecond},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := newTimed(t)
			tt.keep = true
			tt.register(test.given)
			tt.pass(1500 * time.Millisecond)
			tt.mustHaveOverdue()
			test.then(tt)
			if test.ends == 0 {
				tt.pass(10 * time.Minute)
				tt.mustHaveOverdue()
				return
			}
			tt.clock = test.ends - 1
			tt.turn()
			tt.mustHaveOverdue()
			tt.clock++
			tt.turn()
			tt.mustHaveOverdue("a")
		})
	}
}

func TestAnOverdueLease(t *testing.T) {
	tests := map[string]struct {
		then func(tt *timed) // a second late
		ends time.Duration   // 0: never
	}{
		"it stays overdue":                            {func(*timed) {}, 3 * time.Second},
		"a renewal gives it its full time again":      {func(tt *timed) { tt.sign("a") }, 5 * time.Second},
		"an update gives it its full time again":      {func(tt *timed) { tt.register(leased("a", 3)) }, 6 * time.Second},
		"a longer time counts":                        {func(tt *timed) { tt.register(leased("a", 9)) }, 12 * time.Second},
		"a shorter time counts":                       {func(tt *timed) { tt.register(leased("a", 1)) }, 4 * time.Second},
		"it may move to another pool":                 {func(tt *timed) { tt.register(but(leased("a", 2), func(n *domain.CacheNode) { n.Pool = "q" })) }, 5 * time.Second},
		"it may be removed":                           {func(tt *timed) { tt.apply(domain.Deregister{ID: "a"}) }, 0},
		"it may be removed and come back":             {func(tt *timed) { tt.apply(domain.Deregister{ID: "a"}); tt.register(leased("a", 2)) }, 5 * time.Second},
		"it may lose its time to live":                {func(tt *timed) { tt.register(leased("a", 0)) }, 0},
		"a restart gives it its full time again":      {func(tt *timed) { tt.restart() }, 5 * time.Second},
		"an expiry of another revision has no effect": {func(tt *timed) { tt.apply(domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 9}}}) }, 3 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := newTimed(t)
			tt.keep = true
			tt.register(leased("a", 2))
			tt.pass(3 * time.Second)
			tt.mustHaveOverdue("a")
			test.then(tt)
			tt.turn() // a look must not undo it
			if test.ends > tt.clock {
				tt.clock = test.ends - 1
				tt.turn()
				tt.mustHaveOverdue()
				tt.clock++
			}
			tt.pass(time.Minute)
			if test.ends == 0 {
				tt.mustHaveOverdue()
				return
			}
			tt.mustHaveOverdue("a")
			tt.sign("a") // and nothing of it is lost
			tt.mustHaveOverdue()
		})
	}
}

func TestANodeThatExpiredHasNoLease(t *testing.T) {
	for name, onExpiry := range map[string]domain.OnExpiry{
		"a removed node":   domain.RemoveOnExpiry,
		"a node made down": domain.DownOnExpiry,
	} {
		t.Run(name, func(t *testing.T) {
			tt := newTimed(t)
			tt.register(but(leased("a", 2), func(n *domain.CacheNode) { n.OnExpiry = onExpiry }))
			tt.pass(2 * time.Second)
			if tt.gone["a"] != 2*time.Second || len(tt.nodes) != 0 || len(tt.due) != 0 {
				t.Fatalf("expired at %v with %d leases left, want at 2s with none", tt.gone["a"], len(tt.nodes))
			}
			tt.pass(2*time.Second + leaseTick) // a lapse counts for a lifetime
			if len(tt.pools) != 0 || len(tt.troubled) != 0 {
				t.Errorf("pools left = %d and in trouble = %d, want none", len(tt.pools), len(tt.troubled))
			}
			if onExpiry == domain.DownOnExpiry {
				tt.apply(domain.Revive{ID: "a"})
				if l := tt.nodes["a"]; l == nil || l.end() != tt.clock+2*time.Second {
					t.Errorf("lease of the revived node = %+v, want one that ends in 2s", l)
				}
			}
		})
	}
}

func TestFillAddsWhatTheTableMissed(t *testing.T) {
	tt := newTimed(t)
	tt.keep = true
	for _, id := range []string{"same", "updated", "again", "removed", "freed", "overdue"} {
		tt.register(leased(id, 10))
	}
	tt.register(leased("for-ever", 0))
	tt.pass(4 * time.Second)
	tt.sign("same", "updated", "again", "removed", "freed")
	tt.pass(7 * time.Second)
	tt.mustHaveOverdue("overdue")
	// The table does not see the following changes.
	for _, cmd := range []domain.Command{
		domain.Register{Node: leased("updated", 20)},
		domain.Deregister{ID: "again"}, domain.Register{Node: leased("again", 10)},
		domain.Deregister{ID: "removed"}, domain.Register{Node: leased("new", 10)},
		domain.Register{Node: leased("freed", 0)},
	} {
		if _, err := tt.registry.Apply(cmd); err != nil {
			t.Fatal(err)
		}
	}
	tt.fill(tt.registry.View())
	tt.mustBeSound()
	got := map[string]time.Duration{}
	for id, l := range tt.nodes {
		got[id] = l.end()
	}
	want := map[string]time.Duration{
		"same": 14 * time.Second, "updated": 31 * time.Second, "again": 21 * time.Second,
		"new": 21 * time.Second, "overdue": 10 * time.Second,
	}
	if !maps.Equal(got, want) {
		t.Errorf("ends of leases = %v, want %v", got, want)
	}
	tt.mustHaveOverdue("overdue")
}

func TestTheHeapHoldsEachLeaseOnce(t *testing.T) {
	tt := newTimed(t)
	tt.keep = true
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		id := fmt.Sprint("n", random.IntN(5))
		n := but(leased(id, 1+random.IntN(100)), func(n *domain.CacheNode) { n.Weight = i })
		changes, err := tt.registry.Apply(domain.Register{Node: n})
		if err != nil {
			t.Fatal(err)
		}
		tt.follow(&changes[0])
		if random.IntN(10) == 0 {
			tt.clock += time.Second
			tt.findOverdue()
		}
		if len(tt.due) > len(tt.nodes) {
			t.Fatalf("after %d updates the heap has %d entries for %d leases", i+1, len(tt.due), len(tt.nodes))
		}
	}
	tt.mustBeSound()
}

// A renewal must be cheap, so it leaves the heap alone.
func TestALeaseIsCheckedOncePerTimeToLive(t *testing.T) {
	tt := newTimed(t)
	tt.register(leased("a", 10))
	at, seen := tt.nodes["a"].checkAt, 0
	for range 1000 {
		tt.pass(leaseTick)
		tt.sign("a")
		if l := tt.nodes["a"]; l.checkAt != at {
			at = l.checkAt
			seen++
		}
	}
	if seen > 11 {
		t.Errorf("checks of a lease in ten lifetimes = %d, want at most 11", seen)
	}
}

// After any sequence of events, exactly the nodes whose time is over are overdue.
func TestLeasesAgainstAModel(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		tt := newTimed(t)
		ends, ttls := map[string]time.Duration{}, map[string]time.Duration{}
		began := func(id string, ttl int) {
			ttls[id] = time.Duration(ttl) * time.Second
			ends[id] = tt.clock + ttls[id]
		}
		look := func() {
			for _, pool := range tt.turnKept() {
				for id := range ends { // a pool that is held back no more begins anew
					if l := tt.nodes[id]; l.pool == pool && !tt.pools[pool].held {
						ends[id] = tt.clock + ttls[id]
					}
				}
			}
		}
		for step := range 3000 {
			id := fmt.Sprint("n", random.IntN(8))
			_, known := tt.registry.View().Node(id)
			switch action := random.IntN(20); {
			case action < 4:
				ttl := random.IntN(4)
				n := but(leased(id, ttl), func(n *domain.CacheNode) {
					n.Pool, n.Weight = fmt.Sprint("p", random.IntN(3)), step
				})
				tt.register(n)
				if began(id, ttl); ttl == 0 {
					delete(ends, id)
				}
			case action < 6 && known:
				tt.apply(domain.Deregister{ID: id})
				delete(ends, id)
			case action < 9 && tt.nodes[id] != nil:
				tt.sign(id)
				ends[id] = tt.clock + ttls[id]
			case action == 9 && random.IntN(10) == 0:
				tt.restart()
				for id := range ends {
					ends[id] = tt.clock + ttls[id]
				}
			case action == 10:
				tt.fill(tt.registry.View())
			case action == 11:
				pool := fmt.Sprint("p", random.IntN(3))
				look()
				for _, l := range tt.expirable(domain.MaxBatch, &pool, tt.busy) {
					delete(ends, l.id)
				}
				tt.expire(&pool)
			default:
				tt.clock += time.Duration(random.IntN(500)) * time.Millisecond
			}
			look()
			var want []string
			for id, end := range ends {
				if end <= tt.clock {
					want = append(want, id)
				}
			}
			slices.Sort(want)
			if got := tt.overdue(); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: overdue nodes = %q, want %q", seed, step, got, want)
			}
			if len(tt.nodes) != len(ends) {
				t.Fatalf("seed %d, step %d: leases = %d, want %d", seed, step, len(tt.nodes), len(ends))
			}
		}
	}
}
