package app

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestAPoolIsHeldForAShareAndANumberOfLapses(t *testing.T) {
	tests := []struct {
		stop, of int
		held     bool
	}{
		{1, 1, false}, {1, 2, false}, {2, 2, false}, {2, 3, false}, {3, 3, true},
		{2, 6, false}, {3, 9, true}, {3, 10, false}, {4, 10, true}, {6, 20, false}, {7, 20, true},
		{30, 100, false}, {31, 100, true}, {100, 100, true}, {300, 1000, false}, {301, 1000, true},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%d of %d is %v", test.stop, test.of, test.held), func(t *testing.T) {
			tt := pooled(t, test.of, "p")
			tt.passWith(15, members("p", test.stop, test.of-1)...)
			if !test.held {
				tt.mustHold()
				tt.mustHaveLost(test.stop)
				return
			}
			tt.mustHold(ports.HeldPool{Pool: "p", Overdue: test.stop, Leased: test.of})
			tt.mustHaveLost(0)
			if !slices.Equal(tt.changed, []string{"p"}) {
				t.Errorf("pools that look gave = %q, want p", tt.changed)
			}
		})
	}
}

func TestALapseCountsForOneTimeToLive(t *testing.T) {
	// Of ten nodes three expire at 10 s. When a fourth that was last renewed some time
	// later is overdue, the three are still counted, or forgotten.
	tests := map[string]struct {
		later int // seconds
		held  bool
	}{
		"a fourth in their lifetime is held":            {5, true},
		"a fourth at the end of their lifetime is held": {10, true},
		"a fourth after their lifetime is not held":     {11, false},
		"a fourth long after is not held":               {25, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, 10, "p")
			for range test.later {
				tt.sign(members("p", 3, 9)...)
				tt.pass(time.Second)
			}
			tt.sign(members("p", 3, 9)...)
			for range 10 {
				tt.sign(members("p", 4, 9)...)
				tt.pass(time.Second)
			}
			if test.held {
				tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 1, Leased: 7})
				tt.mustHaveLost(3)
			} else {
				tt.mustHold()
				tt.mustHaveLost(4)
			}
			// Whether it was held or not, it expires once the three are forgotten.
			tt.passWith(22, members("p", 4, 9)...)
			tt.mustHold()
			tt.mustHaveLost(4)
		})
	}
}

func TestAForcedExpiryIsNoLapse(t *testing.T) {
	// Three of ten go, and five seconds later a fourth.
	for name, test := range map[string]struct {
		pool *string // whose nodes are forced to
		held bool
	}{
		"three that ran out of time count":    {nil, true},
		"three that were forced do not":       {new("p"), false},
		"force on another pool has no effect": {new("q"), true},
	} {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, 10, "p")
			tt.passWith(5, members("p", 3, 9)...)
			tt.sign(members("p", 3, 9)...)
			for range 10 {
				tt.keep = true
				tt.pass(time.Second)
				tt.sign(members("p", 4, 9)...)
				tt.expire(test.pool)
				tt.keep = false
				tt.turn()
			}
			if test.held {
				tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 1, Leased: 7})
			} else {
				tt.mustHold()
				tt.mustHaveLost(4)
			}
		})
	}
	t.Run("expiry goes on in a pool that was held", func(t *testing.T) {
		tt := pooled(t, 10, "p")
		tt.passWith(10, members("p", 4, 9)...)
		tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 4, Leased: 10})
		tt.expire(new("p"))
		tt.mustHaveLost(4)
		tt.turn()
		tt.mustHold()
		if len(tt.troubled) != 0 {
			t.Error("the pool is still in trouble after its nodes were forced to expire")
		}
	})
}

// When the network between a pool and the leader fails, none of its nodes may
// expire: by the time the first is overdue, the others are late, too.
func TestNoNodeExpiresWhenAllStopAtOnce(t *testing.T) {
	tests := map[string]struct {
		nodes int
		every time.Duration // of a time to live of 10 s
	}{
		"three that are renewed often":        {3, 2 * time.Second},
		"a hundred that are renewed often":    {100, time.Second},
		"a hundred that are renewed as usual": {100, 3300 * time.Millisecond},
		"a hundred that are renewed rarely":   {100, 5 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, test.nodes, "p")
			ids := members("p", 0, test.nodes-1)
			a := employ(tt, test.every, ids...)
			a.work(time.Minute)
			a.stop(ids...)
			a.work(time.Minute)
			tt.mustHaveLost(0)
			tt.mustHold(ports.HeldPool{Pool: "p", Overdue: test.nodes, Leased: test.nodes})

			// The same holds when the network fails again soon after all were back.
			a = employ(tt, test.every, ids...)
			a.work(2 * test.every)
			tt.mustHold()
			a.stop(ids...)
			a.work(time.Minute)
			tt.mustHaveLost(0)
		})
	}
}

func TestNodesThatEndOneAfterTheOtherAreNotHeld(t *testing.T) {
	for name, every := range map[string]time.Duration{
		"agents that are quick":                   500 * time.Millisecond,
		"agents that renew three times in a life": 3 * time.Second,
		"agents that renew twice in a life":       5 * time.Second,
		"agents that renew in the last moment":    8 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, 10, "p")
			a := employ(tt, every, members("p", 0, 9)...)
			a.work(time.Minute)
			for i := range 8 { // one after the other ends, each long after the one before
				a.stop(member("p", i))
				a.work(25 * time.Second)
				tt.mustHaveLost(i + 1)
			}
			if len(tt.changed) != 0 {
				t.Errorf("expiry of pools %q was held back, want none", tt.changed)
			}
		})
	}
}

func TestALeaseIsLateByItsInterval(t *testing.T) {
	const ttl = 10 * time.Second
	tests := map[string]struct {
		usual, age time.Duration
		late       bool
	}{
		"a node without a known interval is late only at the end":       {0, ttl - 1, false},
		"a node without time left is late":                              {0, ttl, true},
		"a node is late a quarter of its interval after it is due":      {6 * time.Second, 7500*time.Millisecond + 1, true},
		"a node is not late before that":                                {6 * time.Second, 7500 * time.Millisecond, false},
		"a node is not late in the first half of its time":              {time.Second, ttl / 2, false},
		"a node that renews often is late after that half":              {time.Second, ttl/2 + 1, true},
		"a node that renews in the last moment is late only at the end": {8 * time.Second, ttl - 1, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := &lease{ttl: ttl, interval: test.usual, renewed: time.Hour}
			if got := l.late(time.Hour + test.age); got != test.late {
				t.Errorf("late = %v, want %v", got, test.late)
			}
		})
	}
}

func TestTheIntervalOfRenewals(t *testing.T) {
	const s = time.Second
	tests := map[string]struct {
		gaps []time.Duration
		want time.Duration
	}{
		"is unknown in the beginning":             {nil, 0},
		"is unknown after the first renewal":      {[]time.Duration{s}, 0},
		"is the gap between two renewals":         {[]time.Duration{s, 3 * s}, 3 * s},
		"is the longer of two":                    {[]time.Duration{s, 3 * s, 4 * s}, 4 * s},
		"does not change with one short gap":      {[]time.Duration{s, 4 * s, s}, 2 * s},
		"changes with many":                       {[]time.Duration{s, 8 * s, s, s, s, s}, s},
		"does not change when a node was overdue": {[]time.Duration{s, 3 * s, 40 * s}, 3 * s},
		"is learnt on after that":                 {[]time.Duration{s, 3 * s, 40 * s, 4 * s}, 4 * s},
		"does not change after a standstill":      {[]time.Duration{s, 8 * s, -s}, 8 * s},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := newTimed(t)
			tt.keep = true
			tt.register(leased("a", 10))
			for _, gap := range test.gaps {
				if gap < 0 {
					tt.restart()
				}
				tt.pass(max(gap, -gap))
				tt.sign("a")
			}
			if got := tt.nodes["a"].interval; got != test.want {
				t.Errorf("interval = %v, want %v", got, test.want)
			}
		})
	}
}

func TestExpiryGoesOnInAHeldPool(t *testing.T) {
	tests := map[string]struct {
		then func(tt *timed) // four of ten are held
		lost int
	}{
		"when enough are renewed, and the others are not": {func(tt *timed) { tt.sign("p0") }, 3},
		"when all are renewed, and none expires":          {func(tt *timed) { tt.sign(members("p", 0, 3)...) }, 0},
		"when enough are removed":                         {func(tt *timed) { tt.apply(domain.Deregister{ID: "p0"}); tt.apply(domain.Deregister{ID: "p1"}) }, 2},
		"when they are few among many": {func(tt *timed) {
			for i := 10; i < 14; i++ {
				tt.register(leased(member("p", i), 10))
			}
		}, 4},
		"when enough move to another pool": {func(tt *timed) {
			for _, id := range members("p", 0, 1) {
				tt.register(but(leased(id, 10), func(n *domain.CacheNode) { n.Pool = "q" }))
			}
		}, 2},
		"when enough need not be renewed any more": {func(tt *timed) { tt.register(leased("p0", 0)); tt.register(leased("p1", 0)) }, 2},
		"when this instance stood still":           {func(tt *timed) { tt.restart() }, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, 10, "p")
			tt.passWith(10, members("p", 4, 9)...)
			tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 4, Leased: 10})
			tt.changed = nil
			test.then(tt)
			tt.turn()
			tt.mustHold()
			tt.mustHaveLost(0) // overdue nodes get their full time again
			a := employ(tt, 3*time.Second)
			for id := range tt.nodes {
				if !slices.Contains(members("p", 4-test.lost, 3), id) {
					a.due[id] = tt.clock
				}
			}
			a.work(10*time.Second - leaseTick)
			tt.mustHaveLost(0)
			a.work(leaseTick)
			tt.mustHaveLost(test.lost)
			if !slices.Equal(tt.changed, []string{"p"}) {
				t.Errorf("pools that look gave = %q, want p", tt.changed)
			}
		})
	}
}

// When the fault is mended, the nodes come back one after the other. None of them may
// expire for being the last.
func TestNoNodeExpiresWhenAllComeBack(t *testing.T) {
	for name, outage := range map[string]time.Duration{
		"after the first ran out of time": 8 * time.Second,
		"after half of them did":          9 * time.Second,
		"after all of them did":           15 * time.Second,
		"after a long time":               2 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, 100, "p")
			ids := members("p", 0, 99)
			a := employ(tt, 3*time.Second, ids...)
			a.work(30*time.Second + leaseTick)
			tt.pass(outage)
			tt.mustHaveLost(0)
			if len(tt.overdue()) == 0 {
				t.Fatal("no node is overdue yet")
			}
			a = employ(tt, 3*time.Second, ids...)
			a.work(time.Minute)
			tt.mustHaveLost(0)
			tt.mustHold()
			if !slices.Equal(tt.changed, []string{"p", "p"}) {
				t.Errorf("pools that look gave = %q, want p twice", tt.changed)
			}
		})
	}
}

func TestPoolsAreHeldIndependently(t *testing.T) {
	tt := pooled(t, 10, "p", "q", "r")
	running := append(members("q", 3, 9), members("r", 0, 5)...)
	tt.passWith(10, running...)
	tt.sign(running...)
	tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 10, Leased: 10}, ports.HeldPool{Pool: "r", Overdue: 4, Leased: 10})
	tt.mustHaveLost(3)
	for id := range tt.gone {
		if id[0] != 'q' {
			t.Errorf("%s expired, want only nodes of pool q to", id)
		}
	}
	if !slices.Equal(tt.changed, []string{"p", "r"}) {
		t.Errorf("pools that look gave = %q, want p and r", tt.changed)
	}
}

// A pool whose held nodes have all gone begins anew.
func TestAHeldPoolThatEmptiesIsForgotten(t *testing.T) {
	tt := pooled(t, 3, "p")
	tt.pass(10 * time.Second)
	tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 3, Leased: 3})
	for _, id := range members("p", 0, 2) {
		tt.apply(domain.Deregister{ID: id})
	}
	tt.register(leased("p0", 10))
	tt.pass(leaseTick)
	tt.mustHold()
	tt.sign("p0")
	tt.pass(10 * time.Second)
	tt.mustHaveLost(1)
}

func TestExpirableGivesOverdueNodes(t *testing.T) {
	p, r := "p", "r"
	ids := func(leases []*lease) []string {
		var ids []string
		for _, l := range leases {
			ids = append(ids, l.id)
		}
		slices.Sort(ids)
		return ids
	}
	tests := map[string]struct {
		given func(tt *timed)
		limit int
		only  *string
		want  []string
		some  int // of want, if not all
	}{
		"overdue nodes of pools that are not held":     {limit: 9, want: []string{"q0", "q1"}},
		"no more than the limit":                       {limit: 1, want: []string{"q0", "q1"}, some: 1},
		"nodes of the given pool, although it is held": {limit: 9, only: &p, want: []string{"p0", "p1", "p2", "p3"}},
		"no more than the limit of the given pool":     {limit: 3, only: &p, want: []string{"p0", "p1", "p2", "p3"}, some: 3},
		"none of a pool that does not exist":           {limit: 9, only: &r},
		"no node that is about to expire": {limit: 9, want: []string{"q1"}, given: func(tt *timed) {
			tt.nodes["q0"].expiring = make(chan struct{})
		}},
		"no node that is being written": {limit: 9, want: []string{"q0"}, given: func(tt *timed) { tt.busy["q1"] = 1 }},
		"no such node of the given pool": {limit: 9, only: &p, want: []string{"p2", "p3"}, given: func(tt *timed) {
			tt.nodes["p0"].expiring = make(chan struct{})
			tt.busy["p1"] = 2
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tt := pooled(t, 10, "p", "q")
			tt.keep = true
			tt.passWith(10, append(members("p", 4, 9), members("q", 2, 9)...)...)
			tt.mustHold(ports.HeldPool{Pool: "p", Overdue: 4, Leased: 10})
			if test.given != nil {
				test.given(tt)
			}
			got := ids(tt.expirable(test.limit, test.only, tt.busy))
			if test.some > 0 {
				if len(got) != test.some {
					t.Fatalf("expirable = %q, want %d nodes", got, test.some)
				}
				for _, id := range got {
					if !slices.Contains(test.want, id) {
						t.Errorf("%s in %q is not expirable", id, got)
					}
				}
				return
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("expirable = %q, want %q", got, test.want)
			}
		})
	}
}
