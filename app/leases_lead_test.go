package app_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func id(prefix string, i int) string { return fmt.Sprint(prefix, i) }

func lead(leading bool) func(*ports.LocalState) {
	return func(s *ports.LocalState) { s.Leading = leading }
}

func newTerm(s *ports.LocalState) { s.Term++ }

func TestOnlyTheLeadersClockEndsLeases(t *testing.T) {
	tests := map[string]func(t *testing.T, l leasing){ // a has 500 ms left of its two seconds
		"a new term gives full time again": func(t *testing.T, l leasing) {
			l.Change(newTerm)
			l.mustEndIn(2*time.Second, "a", "gone")
		},
		"a deposed leader expires nothing": func(t *testing.T, l leasing) {
			l.Change(lead(false))
			pass(time.Hour)
			l.mustBe("a", domain.Active)
			if proposed := l.expiries(); len(proposed) > 0 {
				t.Errorf("expiries proposed by a deposed leader = %v, want none", proposed)
			}
		},
		"a leader that is elected again gives full time": func(t *testing.T, l leasing) {
			l.Change(lead(false))
			pass(time.Minute)
			l.Change(func(s *ports.LocalState) { s.Leading, s.Term = true, s.Term+2 })
			l.mustEndIn(2*time.Second, "a", "gone")
		},
		"a leader that can't write expires nothing, and goes on trying": func(t *testing.T, l leasing) {
			l.FailWith(ports.ErrBusy)
			pass(time.Minute)
			l.mustBe("a", domain.Active)
			l.FailWith(nil)
			pass(200 * time.Millisecond)
			l.mustBe("a", "gone")
		},
		"a leader that shuts down expires nothing": func(t *testing.T, l leasing) {
			l.Change(func(s *ports.LocalState) { s.Closed = true })
			pass(time.Hour)
			l.mustBe("a", domain.Active)
			if proposed := l.expiries(); len(proposed) > 0 {
				t.Errorf("expiries proposed during shutdown = %v, want none", proposed)
			}
		},
		"a leader that falls behind the history reads the whole registry": func(t *testing.T, l leasing) {
			l.mustRegister(living("b", 9))
			frozen, _ := l.State()
			l.tap(func(l *tapped) { l.frozen = &frozen })
			write(t, l.Instance, domain.HistoryLength) // of node a
			l.tap(func(l *tapped) { l.frozen = nil })
			pass(8900 * time.Millisecond)
			l.mustBe("a", domain.Active) // it has no time to live any more
			l.mustBe("b", domain.Active)
			pass(500 * time.Millisecond)
			l.mustBe("b", "gone")
		},
		"time in which the leader stood still does not count, and leases begin anew": func(t *testing.T, l leasing) {
			l.standStill(10 * time.Second)
			l.mustBe("a", domain.Active)
			l.mustEndIn(1900*time.Millisecond, "a", "gone")
			if log := l.log.String(); strings.Count(log, "this instance stood still") != 1 || !strings.Contains(log, "still=10") {
				t.Errorf("log = %s, want once that this instance stood still for 10 s", log)
			}
		},
		"the same holds for nodes whose time was over": func(t *testing.T, l leasing) {
			l.FailWith(ports.ErrBusy)
			pass(10 * time.Second)
			l.FailWith(nil)
			l.standStill(10 * time.Second)
			l.mustEndIn(1900*time.Millisecond, "a", "gone")
		},
		"of a shorter delay only a quarter of a second counts": func(t *testing.T, l leasing) {
			l.standStill(950 * time.Millisecond)
			pass(150 * time.Millisecond)
			l.mustBe("a", domain.Active)
			pass(300 * time.Millisecond)
			l.mustBe("a", "gone")
			if log := l.log.String(); strings.Contains(log, "stood still") {
				t.Errorf("log = %s, want no pause of the instance", log)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2))
				pass(1500 * time.Millisecond)
				test(t, l)
			})
		})
	}
}

func TestAnExpiryThatFailsIsTriedAgain(t *testing.T) {
	for _, failure := range []error{ports.ErrOutcomeUnknown, ports.ErrNotLeader, ports.ErrBusy} {
		t.Run(failure.Error(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2), living("b", 2))
				l.tap(func(r *tapped) {
					r.propose = func(_ context.Context, cmd domain.Command) error {
						if _, expires := cmd.(domain.Expire); expires {
							return failure
						}
						return nil
					}
				})
				pass(3 * time.Second)
				if tries := len(l.expiries()); tries < 5 {
					t.Errorf("tries in a second = %d, want at least 5", tries)
				}
				l.mustBe("a", domain.Active)
				l.mustRenew("b")
				l.tap(func(r *tapped) { r.propose = nil })
				pass(200 * time.Millisecond)
				l.mustBe("a", "gone")
				l.mustEndIn(1800*time.Millisecond, "b", "gone")
				if stats := l.Stats(); stats.Expired != 2 || stats.Renewals != 1 || stats.Leased != 0 {
					t.Errorf("stats = %+v, want 2 expired, 1 renewal and none leased", stats)
				}
			})
		})
	}
}

func TestANodeHasOneExpiryAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2), living("b", 4))
		release := l.blockExpiry()
		pass(10 * time.Second)
		if got := l.expiries(); !reflect.DeepEqual(got, []int{1, 1}) {
			t.Errorf("nodes in each proposed expiry = %v, want one twice", got)
		}
		release(nil)
		l.mustBe("a", "gone")
		l.mustBe("b", "gone")
	})
}

func TestHeldAndStats(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		if held := l.Held(); held != nil {
			t.Errorf("held pools = %+v, want none", held)
		}
		for i := range 10 {
			l.mustRegister(living(id("p", i), 4, of("p")), living(id("q", i), 4, of("q")))
		}
		l.mustRegister(spec("for-ever", 1))
		for range 5 {
			pass(time.Second)
			for i := range 6 {
				l.mustRenew(id("p", i))
			}
		}
		want := []ports.HeldPool{{Pool: "p", Overdue: 4, Leased: 10}, {Pool: "q", Overdue: 10, Leased: 10}}
		if held := l.Held(); !reflect.DeepEqual(held, want) {
			t.Errorf("held pools = %+v, want %+v", held, want)
		}
		if stats := l.Stats(); stats.Leased != 20 || stats.Renewals != 30 || stats.Expired != 0 || !reflect.DeepEqual(stats.Held, want) {
			t.Errorf("stats = %+v, want 20 leased, 30 renewals, none expired and held %+v", stats, want)
		}
		pass(time.Minute) // also those that were renewed stop
		want[0].Overdue = 10
		if held := l.Held(); !reflect.DeepEqual(held, want) {
			t.Errorf("held pools = %+v, want %+v", held, want)
		}
		if said := strings.Count(l.log.String(), "expiry is held back"); said != 2 {
			t.Errorf("log lines that expiry is held back = %d, want 2", said)
		}

		for i := range 10 {
			l.mustRenew(id("q", i))
		}
		pass(200 * time.Millisecond)
		if held := l.Held(); !reflect.DeepEqual(held, want[:1]) {
			t.Errorf("held pools = %+v, want %+v", held, want[:1])
		}
		if log := l.log.String(); strings.Count(log, `msg="expiry goes on" pool=q`) != 1 || strings.Count(log, "expiry goes on") != 1 {
			t.Errorf("log = %s, want once that expiry goes on, for pool q", log)
		}

		// Only a PUT that changes nothing counts as a renewal.
		l.mustRegister(living("late", 4), living("late", 5), living("late", 5))
		if stats := l.Stats(); stats.Leased != 21 || stats.Renewals != 41 {
			t.Errorf("stats = %+v, want 21 leased and 41 renewals", stats)
		}

		// A node that was just written is counted.
		if _, err := l.Instance.Propose(t.Context(), domain.Register{Node: mustNode(t, living("new", 4))}); err != nil {
			t.Fatal(err)
		}
		if stats := l.Stats(); stats.Leased != 22 {
			t.Errorf("stats = %+v, want 22 leased", stats)
		}

		// A deposed leader reports nothing of what it knew as the leader.
		l.Change(lead(false))
		if held := l.Held(); held != nil {
			t.Errorf("held pools of a deposed leader = %+v, want none", held)
		}
		if stats := l.Stats(); stats.Leased != 0 || stats.Held != nil || stats.Renewals != 41 {
			t.Errorf("stats of a deposed leader = %+v, want 41 renewals and nothing else", stats)
		}
	})
}

func TestCloseCancelsAHangingExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2))
		l.blockExpiry()
		pass(3 * time.Second)
		renewed := make(chan error, 1)
		go func() {
			_, _, err := l.Renew(t.Context(), "a")
			renewed <- err
		}()
		synctest.Wait()
		began := time.Now()
		if err := l.Close(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("Close = %v after %v, want success at once", err, time.Since(began))
		}
		<-renewed // with any outcome
		pass(time.Hour)
		if tries := len(l.expiries()); tries != 1 {
			t.Errorf("expiries proposed = %d, want 1", tries)
		}
	})
}

func TestCloseWaitsForAnExpiryThatHasBegun(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2))
		l.tap(func(r *tapped) {
			r.propose = func(ctx context.Context, _ domain.Command) error {
				<-ctx.Done()
				<-time.After(time.Second)
				return ports.ErrOutcomeUnknown
			}
		})
		pass(3 * time.Second)
		began := time.Now()
		if err := l.Close(t.Context()); err != nil || time.Since(began) != time.Second {
			t.Errorf("Close = %v after %v, want success after a second", err, time.Since(began))
		}
	})
}

func TestNodesThatExpireTogetherDoSoInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		for _, id := range []string{"b", "c", "a"} {
			l.mustRegister(living(id, 2, of(id)))
		}
		first := l.mustRegister(living("z", 1))
		l.FailWith(ports.ErrBusy)
		pass(3 * time.Second)
		l.FailWith(nil)
		pass(200 * time.Millisecond)
		state, _ := l.State()
		var ids []string
		changes, _ := state.View.Since(first.Revision)
		for _, change := range changes {
			ids = append(ids, change.Node.ID)
		}
		if want := []string{"z", "a", "b", "c"}; !reflect.DeepEqual(ids, want) {
			t.Errorf("expired nodes = %q, want %q", ids, want)
		}
	})
}

func TestLeasesCloseWithoutHavingBeenOpened(t *testing.T) {
	l := newLeases(nil)
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(l.Close(t.Context()), l.Close(t.Context())); err != nil {
		t.Error(err)
	}
}
