package app_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// expired is what Expire gave: the nodes in ascending order.
type expired struct {
	ids      []string
	revision domain.Revision
}

func (l leasing) expiring(ctx context.Context, pool string) <-chan outcome[expired] {
	return begin(func() (expired, error) {
		changes, revision, err := l.Expire(ctx, pool)
		var ids []string
		for _, change := range changes {
			if change.Reason != domain.ByExpiry {
				l.t.Errorf("reason of %+v, want %v", change, domain.ByExpiry)
			}
			ids = append(ids, change.Node.ID)
		}
		slices.Sort(ids)
		return expired{ids, revision}, err
	})
}

func (l leasing) mustExpire(pool string, want ...string) {
	l.t.Helper()
	got, err := mustAnswer(l.t, l.expiring(l.t.Context(), pool))
	state, _ := l.State()
	if err != nil || !slices.Equal(got.ids, want) || got.revision != state.View.Revision() {
		l.t.Fatalf("expired nodes = %.200q at %d, %v, want %.200q at %d", fmt.Sprint(got.ids), got.revision, err, fmt.Sprint(want), state.View.Revision())
	}
}

// holding runs test with two pools of five nodes each, all of them held but p4, which
// is still renewed. Nodes of p go down on expiry.
func holding(t *testing.T, test func(t *testing.T, l leasing)) {
	inBubble(t, func(t *testing.T, l leasing) {
		for i := range 5 {
			l.mustRegister(living(id("p", i), 2, of("p"), downOnExpiry), living(id("q", i), 2, of("q")))
		}
		for range 3 {
			pass(time.Second)
			l.mustRenew("p4")
		}
		if held := l.Held(); len(held) != 2 || held[0].Overdue != 4 || held[1].Overdue != 5 {
			t.Fatalf("held pools = %+v, want p with 4 and q with 5 overdue nodes", held)
		}
		test(t, l)
	})
}

func TestExpire(t *testing.T) {
	tests := map[string]func(t *testing.T, l leasing){
		"expires the held nodes of the pool at once, and no others": func(t *testing.T, l leasing) {
			began := time.Now()
			l.mustExpire("p", "p0", "p1", "p2", "p3")
			if took := time.Since(began); took != 0 {
				t.Errorf("Expire took %v, want no time", took)
			}
			l.mustBe("p0", domain.Down)
			l.mustBe("p4", domain.Active)
			l.mustBe("q0", domain.Active)
			l.mustExpire("p")
			l.mustExpire("q", "q0", "q1", "q2", "q3", "q4")
			if stats := l.Stats(); stats.Expired != 9 || stats.Leased != 1 {
				t.Errorf("stats = %+v, want 9 expired and 1 leased", stats)
			}
			if log := l.log.String(); !strings.Contains(log, "an operator has the overdue nodes of a pool expire") {
				t.Errorf("log = %s, want that an operator has nodes expire", log)
			}
		},
		"includes nodes whose lease has just run out": func(t *testing.T, l leasing) {
			pass(50 * time.Millisecond) // between two looks
			l.mustRegister(living("r0", 2, of("r")))
			l.Held() // has its time begin now
			pass(2*time.Second - time.Millisecond)
			l.mustExpire("r")
			pass(time.Millisecond)
			l.mustExpire("r", "r0")
		},
		"counts no lapses that would hold later expiries back": func(t *testing.T, l leasing) {
			l.mustExpire("p", "p0", "p1", "p2", "p3")
			l.mustEndIn(2*time.Second, "p4", domain.Down)
		},
		"expires nothing in an unknown pool": func(t *testing.T, l leasing) {
			l.mustExpire("r")
			l.mustBe("p0", domain.Active)
		},
		"refuses an invalid name of a pool": func(t *testing.T, l leasing) {
			for _, pool := range []string{"", "/", strings.Repeat("p", 129)} {
				var invalid *domain.InvalidError
				if _, _, err := l.Expire(t.Context(), pool); !errors.As(err, &invalid) || invalid.Field != "pool" {
					t.Errorf("error for the pool %q = %v, want an invalid pool", pool, err)
				}
			}
			if l.readsSoFar() != 0 {
				t.Error("Expire asked for leadership before it refused an invalid pool")
			}
		},
		"proves leadership first": func(t *testing.T, l leasing) {
			l.tap(func(r *tapped) { r.read = func() error { return ports.ErrNotLeader } })
			if _, _, err := l.Expire(t.Context(), "p"); !errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
			}
			if got := l.expiries(); len(got) != 0 {
				t.Errorf("expiries proposed without proof of leadership = %v, want none", got)
			}
		},
		"fails if the leader is deposed after its proof": func(t *testing.T, l leasing) {
			deposed, _ := l.State()
			deposed.Leading = false
			l.tap(func(r *tapped) {
				r.read = func() error { r.tap(func(r *tapped) { r.frozen = &deposed }); return nil }
			})
			if _, _, err := l.Expire(t.Context(), "p"); !errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
			}
			l.mustBe("p0", domain.Active)
		},
		"gives the error of the write, and may be called again": func(t *testing.T, l leasing) {
			for _, why := range []error{ports.ErrBusy, ports.ErrNotLeader, ports.ErrOutcomeUnknown} {
				l.tap(func(r *tapped) { r.propose = func(context.Context, domain.Command) error { return why } })
				if _, _, err := l.Expire(t.Context(), "p"); !errors.Is(err, why) {
					t.Errorf("error = %v, want %v", err, why)
				}
				l.tap(func(r *tapped) { r.propose = nil })
			}
			pass(time.Minute) // one that failed is held again
			l.mustBe("p0", domain.Active)
			l.mustExpire("p", "p0", "p1", "p2", "p3", "p4")
		},
		"has an unknown outcome if the caller does not wait": func(t *testing.T, l leasing) {
			release := l.blockExpiry()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			gaveUp := l.expiring(ctx, "p")
			pass(time.Second)
			if _, err := mustAnswer(t, gaveUp); !errors.Is(err, ports.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error = %v, want an unknown outcome because of the deadline", err)
			}
			release(nil)
			l.mustBe("p0", domain.Down)
		},
		"makes renewals wait": func(t *testing.T, l leasing) {
			release := l.blockExpiry()
			asked, renewed := l.expiring(t.Context(), "p"), l.renewing(t.Context(), "p0")
			mustWait(t, renewed)
			l.mustRenew("p4")
			l.mustRenew("q0")
			release(nil)
			if got, err := mustAnswer(t, asked); err != nil || len(got.ids) != 4 {
				t.Errorf("Expire = %+v, %v, want 4 nodes", got, err)
			}
			if node, err := mustAnswer(t, renewed); err != nil || node.State != domain.Active {
				t.Errorf("renewal = %+v, %v, want an active node", node, err)
			}
		},
		"leaves out nodes that are being written": func(t *testing.T, l leasing) {
			release := l.blockWrites()
			written := l.registering(t.Context(), living("p0", 2, of("p")))
			l.mustExpire("p", "p1", "p2", "p3")
			release(nil)
			if _, err := mustAnswer(t, written); err != nil {
				t.Fatal(err)
			}
			l.mustBe("p0", domain.Active)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { holding(t, test) })
	}
}

// Three of ten nodes expire, and a second later a fourth is about to. If an operator
// forced the three to expire, they must not hold the fourth back.
func TestExpireCountsNoLapsesUnlessItFails(t *testing.T) {
	for name, test := range map[string]struct {
		failure error
		held    int // pools in the end
	}{
		"a forced expiry is no lapse":               {nil, 0},
		"a forced expiry that fails leaves a lapse": {ports.ErrBusy, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				for i := range 10 {
					l.mustRegister(living(id("p", i), map[bool]int{true: 2, false: 60}[i < 3], of("p")))
				}
				l.mustRegister(living("p9", 4, of("p")))
				l.FailWith(ports.ErrBusy) // keeps the clock from it
				pass(3 * time.Second)
				l.FailWith(nil)
				l.tap(func(r *tapped) { r.propose = func(context.Context, domain.Command) error { return test.failure } })
				if _, _, err := l.Expire(t.Context(), "p"); !errors.Is(err, test.failure) || errors.Is(err, ports.ErrOutcomeUnknown) {
					t.Fatal(err)
				}
				l.tap(func(r *tapped) { r.propose = nil })
				pass(200 * time.Millisecond)
				l.mustBe("p0", "gone")
				pass(time.Second)
				if held := l.Held(); len(held) != test.held {
					t.Errorf("held pools = %+v, want %d", held, test.held)
				}
			})
		})
	}
}

func TestExpireOfManyNodesIsSplit(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		var want []string
		for part := range 3 {
			var edits []domain.Edit
			for i := range 834 {
				want = append(want, id("n", part*834+i))
				edits = append(edits, domain.Edit{Put: new(living(want[len(want)-1], 2))})
			}
			if _, err := l.nodes.Batch(t.Context(), edits); err != nil {
				t.Fatal(err)
			}
		}
		pass(3 * time.Second)
		slices.Sort(want)
		// The parts are proposed side by side. Here the last one is applied first.
		release := l.block(func(cmd domain.Command) bool {
			expire, ok := cmd.(domain.Expire)
			return ok && len(expire.Nodes) == domain.MaxBatch
		})
		asked := l.expiring(t.Context(), domain.DefaultPool)
		mustWait(t, asked)
		release(nil)
		got, err := mustAnswer(t, asked)
		if state, _ := l.State(); err != nil || !slices.Equal(got.ids, want) || got.revision != state.View.Revision() {
			t.Errorf("%d of %d nodes expired at %d, %v; the registry is at %d", len(got.ids), len(want), got.revision, err, state.View.Revision())
		}
		parts := l.expiries()
		slices.Sort(parts)
		if !slices.Equal(parts, []int{502, 1000, 1000}) {
			t.Errorf("nodes in each expiry = %v, want 502, 1000 and 1000", parts)
		}
	})
}
