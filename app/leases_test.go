package app_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestExpiryInTime(t *testing.T) {
	const half = 500 * time.Millisecond
	tests := map[string]func(t *testing.T, l leasing){
		"a node that is not renewed is removed after its time": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2), living("b", 4), spec("c", 1))
			l.mustEndIn(2*time.Second, "a", "gone")
			l.mustBe("b", domain.Active)
			pass(2 * time.Second)
			l.mustBe("b", "gone")
			pass(time.Hour)
			l.mustBe("c", domain.Active)
		},
		"a node that is not renewed is made down if it asks for that": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2, downOnExpiry))
			l.mustEndIn(2*time.Second, "a", domain.Down)
			pass(time.Hour)
			l.mustBe("a", domain.Down)
		},
		"the change of an expiry has its reason": func(t *testing.T, l leasing) {
			added := l.mustRegister(living("a", 2), living("b", 2, downOnExpiry))
			pass(2*time.Second + half)
			state, _ := l.State()
			changes, _ := state.View.Since(added.Revision)
			for _, change := range changes {
				if change.Reason != domain.ByExpiry {
					t.Errorf("change = %+v, want the reason %v", change, domain.ByExpiry)
				}
			}
			if len(changes) != 2 {
				t.Errorf("changes = %d, want 2", len(changes))
			}
		},
		"a node that is renewed each second never expires": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			for range 300 {
				pass(time.Second)
				l.mustRenew("a")
			}
			l.mustEndIn(2*time.Second, "a", "gone")
		},
		"a node that is renewed in the last moment does not expire": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			for range 100 {
				pass(1999 * time.Millisecond)
				l.mustRenew("a")
			}
		},
		"a renewal writes nothing": func(t *testing.T, l leasing) {
			added := l.mustRegister(living("a", 2))
			l.mustRenew("a")
			if state, _ := l.State(); state.View.Revision() != added.Revision || len(l.cmds) != 1 {
				t.Errorf("after a renewal: revision %d and %d commands, want %d and 1", state.View.Revision(), len(l.cmds), added.Revision)
			}
		},
		"a PUT renews": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			pass(1500 * time.Millisecond)
			l.mustRegister(living("a", 2, func(s *domain.NodeSpec) { s.Zone = "z" }))
			l.mustEndIn(2*time.Second, "a", "gone")
		},
		"a PUT that changes nothing renews": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			pass(1500 * time.Millisecond)
			if again := l.mustRegister(living("a", 2)); again.Effect != domain.Unchanged {
				t.Fatalf("second PUT = %+v, want no change", again)
			}
			l.mustEndIn(2*time.Second, "a", "gone")
		},
		"a PUT of a node without a lease renews nothing": func(t *testing.T, l leasing) {
			l.mustRegister(spec("a", 1))
			if again := l.mustRegister(spec("a", 1)); again.Effect != domain.Unchanged || l.Stats().Renewals != 0 {
				t.Errorf("PUT of an unleased node = %+v with %d renewals, want no change and none", again, l.Stats().Renewals)
			}
		},
		"a batch renews its nodes": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2), living("b", 2), living("c", 2))
			pass(1500 * time.Millisecond)
			changes, err := l.nodes.Batch(t.Context(), []domain.Edit{
				{Put: new(living("a", 2))}, {Put: new(living("b", 2, of("q")))}, {Put: new(living("d", 2, of("r")))},
			})
			if err != nil || len(changes) != 3 || changes[0].Effect != domain.Unchanged {
				t.Fatalf("batch = %+v, %v, want 3 changes, the first of them none", changes, err)
			}
			pass(2*time.Second - time.Millisecond)
			l.mustBe("a", domain.Active)
			l.mustBe("b", domain.Active)
			l.mustBe("c", "gone")
			pass(half)
			l.mustBe("a", "gone")
			l.mustBe("b", "gone")
		},
		"a PUT that is refused does not renew": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			pass(1500 * time.Millisecond)
			_, err := l.nodes.Register(t.Context(), living("a", 2), domain.Condition{Expect: domain.Absent})
			if !errors.Is(err, domain.ErrConditionFailed) {
				t.Fatal(err)
			}
			l.mustEndIn(500*time.Millisecond, "a", "gone")
		},
		"a node that loses its time to live stays": func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			pass(time.Second)
			l.mustRegister(spec("a", 1))
			pass(time.Hour)
			l.mustBe("a", domain.Active)
		},
		"nodes that others registered before the clock began have their full time": func(t *testing.T, l leasing) {
			other := app.NewLeases(app.LeaseConfig{Registry: l, Local: l, Logger: slog.New(slog.DiscardHandler)})
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.mustRegister(living("a", 2))
			pass(time.Hour)
			l.mustBe("a", domain.Active)
			if err := other.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.mustEndIn(2*time.Second, "a", "gone")
			if err := other.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { inBubble(t, test) })
	}
}

func TestExpirySparesANodeThatWasWrittenMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2), living("b", 2))
		release := l.blockExpiry()
		pass(2500 * time.Millisecond)
		// A write of another leader, which this leader's leases had not seen in time.
		if _, err := l.Instance.Propose(t.Context(), domain.Register{Node: mustNode(t, living("a", 2, of("q")))}); err != nil {
			t.Fatal(err)
		}
		release(nil)
		l.mustBe("a", domain.Active)
		l.mustBe("b", "gone")
		l.mustEndIn(2*time.Second, "a", "gone")
		if stats := l.Stats(); stats.Expired != 2 {
			t.Errorf("stats = %+v, want 2 expired", stats)
		}
	})
}

func mustNode(t *testing.T, spec domain.NodeSpec) domain.CacheNode {
	t.Helper()
	node, err := domain.NewCacheNode(spec)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func TestExpiryOfManyNodesIsSplit(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		var edits []domain.Edit
		for i := range 7000 {
			edits = append(edits, domain.Edit{Put: new(living(id("n", i), map[bool]int{true: 2, false: 600}[i < 2000]))})
			if len(edits) == domain.MaxBatch {
				if _, err := l.nodes.Batch(t.Context(), edits); err != nil {
					t.Fatal(err)
				}
				edits = nil
			}
		}
		pass(2500 * time.Millisecond)
		if nodes := l.expiries(); len(nodes) != 2 || nodes[0] != domain.MaxBatch || nodes[1] != domain.MaxBatch {
			t.Errorf("nodes in each expiry = %v, want two times %d", nodes, domain.MaxBatch)
		}
		if state, _ := l.State(); state.View.Len() != 5000 {
			t.Errorf("nodes left = %d, want 5000", state.View.Len())
		}
	})
}
