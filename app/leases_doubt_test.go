package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// An expiry that a leader that is cut off leaves in its log could take effect once it
// has contact again, on nodes that were renewed through the next leader.
func TestALeaderWithoutProofExpiresNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2))
		l.tap(func(r *tapped) { r.read = func() error { return ports.ErrNotLeader } })
		pass(10 * time.Second)
		if proposed := l.expiries(); len(proposed) > 0 {
			t.Errorf("expiries proposed without proof of leadership = %v, want none", proposed)
		}
		l.tap(func(r *tapped) { r.read = nil })
		pass(200 * time.Millisecond)
		l.mustBe("a", "gone")
	})
}

// A proof that hangs is as good as none. It delays only the renewal of the node that
// is to expire.
func TestAnExpiryWaitsForItsProof(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2), living("b", 60))
		proof := make(chan error)
		l.tap(func(r *tapped) { r.read = func() error { return <-proof } })
		pass(3 * time.Second)
		l.mustRenew("b")
		renewed := l.renewing(t.Context(), "a")
		mustWait(t, renewed)
		l.tap(func(r *tapped) { r.read = nil })
		proof <- ports.ErrNotLeader
		synctest.Wait()
		if node, err := mustAnswer(t, renewed); err != nil || node.ID != "a" {
			t.Errorf("renewal = %v, %v, want node a", node, err)
		}
		pass(1900 * time.Millisecond)
		l.mustBe("a", domain.Active)
	})
}

// Nobody waits any longer for an expiry that a hanging disk has to store, but it is in the
// log: it takes effect as soon as the disk answers, if this instance still leads, and before
// everything that is written later.
func TestARenewalIsNotOvertakenByAnUnansweredExpiry(t *testing.T) {
	tests := map[string]struct {
		spec domain.NodeSpec
		lost bool // it never was in the log
		err  error
		is   domain.State
	}{
		"the node is removed":   {spec: living("a", 2), err: domain.ErrNoSuchNode, is: "gone"},
		"the node is made down": {spec: living("a", 2, downOnExpiry), is: domain.Active},
		"the expiry is lost":    {spec: living("a", 2), lost: true, is: domain.Active},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(test.spec)
				carryOut, release := l.leaveExpiry()
				pass(3 * time.Second)
				renewed := l.renewing(t.Context(), "a")
				mustWait(t, renewed)
				release(test.lost)
				node, err := mustAnswer(t, renewed)
				carryOut()
				if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("renewal = %+v, error %v, want %v", node, err, test.err)
				}
				l.mustBe("a", test.is)
				// That was written behind the expiry, so of that there is no doubt any more.
				before := l.proposals()
				_, _, again := l.Renew(t.Context(), "a")
				if !errors.Is(again, test.err) || (again == nil) != (test.err == nil) {
					t.Errorf("error of the second renewal = %v, want %v", again, test.err)
				}
				if after := l.proposals(); after != before {
					t.Errorf("commands proposed by the next renewal = %d, want none", after-before)
				}
			})
		})
	}
}

// leaveExpiry makes the next expiry end without an answer when release is called. Unless it is
// lost, it is in the log then: it takes effect before the next proposal, or with carryOut.
func (r *tapped) leaveExpiry() (carryOut func(), release func(lost bool)) {
	released, left := make(chan struct{}), make(chan domain.Command, 1)
	carryOut = func() {
		select {
		case cmd := <-left:
			_, _ = r.Instance.Propose(context.Background(), cmd) // an expiry is never refused
		default:
		}
	}
	release = func(lost bool) {
		if lost {
			<-left
		}
		r.tap(func(r *tapped) { r.propose = func(context.Context, domain.Command) error { carryOut(); return nil } })
		close(released)
		synctest.Wait()
	}
	r.tap(func(r *tapped) {
		r.propose = func(_ context.Context, cmd domain.Command) error {
			left <- cmd
			<-released
			return ports.ErrOutcomeUnknown
		}
	})
	return carryOut, release
}

// In a later term the nodes have their full time again, and may have been renewed.
func TestAnExpiryEndsWithTheTermInWhichItWasDecided(t *testing.T) {
	tests := map[string]struct {
		meanwhile []func(*ports.LocalState) // while it waits for its proof
		want      domain.State
	}{
		"the leader stays":               {want: "gone"},
		"the leader is elected again":    {meanwhile: []func(*ports.LocalState){lead(false), func(s *ports.LocalState) { s.Leading, s.Term = true, s.Term+2 }}, want: domain.Active},
		"the leader leads the next term": {meanwhile: []func(*ports.LocalState){newTerm}, want: domain.Active},
		"the leader is deposed":          {meanwhile: []func(*ports.LocalState){lead(false)}, want: domain.Active},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2))
				proof := make(chan error)
				l.tap(func(r *tapped) { r.read = func() error { return <-proof } })
				pass(2200 * time.Millisecond)
				l.tap(func(r *tapped) { r.read = nil })
				for _, change := range test.meanwhile {
					l.Change(change)
					pass(100 * time.Millisecond)
				}
				if leads, _ := l.State(); leads.Leading && len(test.meanwhile) > 0 {
					l.mustRenew("a")
				}
				proof <- nil
				synctest.Wait()
				pass(200 * time.Millisecond)
				l.mustBe("a", test.want)
			})
		})
	}
}

// The expiry of an earlier term may be the last to end without an answer.
func TestAnExpiryOfALaterTermStaysInDoubt(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2))
		earlier := l.blockExpiry()
		pass(3 * time.Second)
		l.Change(newTerm)
		later := l.blockExpiry()
		pass(3 * time.Second)
		later(ports.ErrOutcomeUnknown)
		synctest.Wait()
		earlier(ports.ErrOutcomeUnknown)
		synctest.Wait()
		l.tap(func(r *tapped) { r.propose = nil })
		before := l.proposals()
		l.mustRenew("a")
		if wrote := l.proposals() - before; wrote != 1 {
			t.Errorf("commands proposed by the renewal = %d, want one behind the expiry", wrote)
		}
	})
}

// A write need not ask whether a majority is heard from if another write just did.
func TestConcurrentWritesAskForTheContactOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 60))
		pass(10 * time.Millisecond)
		for range 3 {
			before := l.contacts.Load()
			for range 100 {
				l.mustRegister(living("a", 60))
			}
			if asked := l.contacts.Load() - before; asked != 1 {
				t.Errorf("calls of LeaderContact for 100 writes = %d, want 1", asked)
			}
			pass(10 * time.Millisecond)
		}
		l.Touch(time.Second)
		l.mustRegister(living("a", 60))
		before := l.contacts.Load()
		l.mustRegister(living("a", 60))
		if asked := l.contacts.Load() - before; asked == 0 {
			t.Error("a leader that is cut off does not ask whether it has contact again")
		}
	})
}

func TestLeasesDoNotRunOutWhileTheLeaderIsCutOff(t *testing.T) {
	for name, contact := range map[string]time.Duration{"it was heard from": time.Second, "nobody was ever heard from": -1} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2))
				pass(1500 * time.Millisecond)
				l.Touch(contact)
				pass(10 * time.Second)
				if proposed := l.expiries(); len(proposed) > 0 {
					t.Errorf("expiries proposed while cut off = %v, want none", proposed)
				}
				l.Touch(0)
				l.mustEndIn(1900*time.Millisecond, "a", "gone") // all of its time begins anew
			})
		})
	}
}

// Between two looks there may be more changes than the history keeps.
func TestLeasesFollowTheRegistryBeyondItsHistory(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 60), living("b", 60))
		before, _ := l.Instance.State()
		l.tap(func(r *tapped) { r.frozen = &before })
		change := func(commands ...domain.Command) {
			if _, err := l.Instance.Propose(t.Context(), domain.Batch{Commands: commands}); err != nil {
				t.Fatal(err)
			}
		}
		registered := func(spec domain.NodeSpec) domain.Command {
			node, err := domain.NewCacheNode(spec)
			if err != nil {
				t.Fatal(err)
			}
			return domain.Register{Node: node}
		}
		change(domain.Deregister{ID: "a"}, registered(living("c", 2)))
		many := make([]domain.Command, domain.MaxBatch)
		for n := range many {
			many[n] = registered(domain.NodeSpec{ID: "d", Address: "d.example:11211", Weight: new(n)})
		}
		for range 1 + domain.HistoryLength/len(many) {
			change(many...)
		}
		l.tap(func(r *tapped) { r.frozen = nil })
		pass(100 * time.Millisecond) // until it looks
		if got := l.Stats().Leased; got != 2 {
			t.Errorf("Leased = %d, want 2 for b and c", got)
		}
		l.mustEndIn(1900*time.Millisecond, "c", "gone")
	})
}

func cutOffAfter(d time.Duration) func(*app.LeaseConfig) {
	return func(c *app.LeaseConfig) { c.CutOff = d }
}

func TestTheTimeAfterWhichALeaderCountsAsCutOff(t *testing.T) {
	tests := map[string]struct{ said, want time.Duration }{
		"a second by default":                          {0, time.Second},
		"a second if less is configured":               {100 * time.Millisecond, time.Second},
		"from what is said, where that is more":        {3 * time.Second, 3 * time.Second},
		"the configured time, however long a lease is": {time.Minute, time.Minute},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2))
				l.Touch(test.want)
				pass(time.Minute)
				l.mustBe("a", domain.Active)
				l.Touch(test.want - 1)
				l.mustEndIn(1900*time.Millisecond, "a", "gone")
			}, cutOffAfter(test.said))
		})
	}
}

// A healthy leader may have more than a second between two heartbeats.
func TestNodesExpireWithSlowHeartbeats(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 3), living("b", 3))
		for range 4 {
			for contact := time.Duration(0); contact < 2*time.Second; contact += 250 * time.Millisecond {
				l.Touch(contact)
				pass(250 * time.Millisecond)
			}
			l.mustRenew("b")
		}
		l.mustBe("a", "gone")
		l.mustBe("b", domain.Active)
		if log := l.log.String(); strings.Contains(log, "begins anew") {
			t.Errorf("log = %s, want no sign that leases begin anew", log)
		}
	}, cutOffAfter(10*time.Second/3))
}

// A pause of the leader counts, however rarely it hears from a majority.
func TestLeasesBeginAnewAfterAPauseWithSlowHeartbeats(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2))
		pass(1500 * time.Millisecond)
		l.standStill(time.Second)
		l.mustEndIn(1900*time.Millisecond, "a", "gone")
	}, cutOffAfter(time.Minute))
}

// A write pins its nodes by id, so they need not exist when it begins.
func TestAWritePinsANodeThatDoesNotExistYet(t *testing.T) {
	for name, takes := range map[string]time.Duration{
		"renews it":              1900 * time.Millisecond,
		"keeps it from expiring": 10 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				node := living("a", 2)
				late := make(chan struct{})
				l.tap(func(r *tapped) {
					r.propose = func(context.Context, domain.Command) error { <-late; return nil }
				})
				second := l.registering(t.Context(), node)
				mustWait(t, second)
				l.tap(func(r *tapped) { r.propose = nil })
				l.mustRegister(node)
				pass(takes)
				l.mustBe("a", domain.Active)
				close(late)
				synctest.Wait()
				if change, err := mustAnswer(t, second); err != nil || change.Effect != domain.Unchanged {
					t.Fatalf("second write = %+v, %v, want no change", change, err)
				}
				l.mustEndIn(1900*time.Millisecond, "a", "gone")
			})
		})
	}
}

// Some nodes have expired by then, so the outcome is unknown.
func TestExpireFailsAfterAPart(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		var edits []domain.Edit
		for part := range 2 {
			edits = edits[:0]
			for i := range 750 {
				edits = append(edits, domain.Edit{Put: new(living(id("n", part*750+i), 2))})
			}
			if _, err := l.nodes.Batch(t.Context(), edits); err != nil {
				t.Fatal(err)
			}
		}
		pass(3 * time.Second)
		l.tap(func(r *tapped) {
			r.propose = func(_ context.Context, cmd domain.Command) error {
				if len(cmd.(domain.Expire).Nodes) == 500 {
					return ports.ErrBusy
				}
				return nil
			}
		})
		_, _, err := l.Expire(t.Context(), domain.DefaultPool)
		if !errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("error = %v, want %v", err, ports.ErrOutcomeUnknown)
		}
		l.tap(func(r *tapped) { r.propose = nil })
		changes, _, err := l.Expire(t.Context(), domain.DefaultPool)
		if err != nil || len(changes) != 500 {
			t.Errorf("second call expired %d nodes, %v, want 500", len(changes), err)
		}
	})
}
