package app_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestRenewProvesLeadershipWhenInDoubt(t *testing.T) {
	tests := map[string]struct {
		given func(l leasing)
		reads int
		err   error // while the registry can't be read
	}{
		"a leader that just heard from a majority needs none": {given: func(leasing) {}},
		"a leader within its lease needs none":                {given: func(l leasing) { l.Touch(100 * time.Millisecond) }},
		"a leader beyond its lease needs one":                 {given: func(l leasing) { l.Touch(100*time.Millisecond + 1) }, reads: 1, err: ports.ErrNotLeader},
		"a leader that never heard from a majority needs one": {given: func(l leasing) { l.Touch(-1) }, reads: 1, err: ports.ErrNotLeader},
		"a leader of a new term needs none": {given: func(l leasing) {
			l.cutExpiryShort()
			l.Change(newTerm)
		}},
		"a leader of a new term needs none after an expiry without an answer": {given: func(l leasing) {
			l.mustRegister(living("cut", 9))
			release := l.blockExpiry()
			pass(10 * time.Second)
			l.Change(newTerm)
			pass(time.Second)
			release(ports.ErrOutcomeUnknown)
		}},
		"a leader needs one after an expiry without an answer": {given: leasing.cutExpiryShort, reads: 1, err: ports.ErrNotLeader},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 60))
				test.given(l)
				before := l.readsSoFar()
				l.mustRenew("a")
				if reads := l.readsSoFar() - before; reads != test.reads {
					t.Errorf("proofs of leadership = %d, want %d", reads, test.reads)
				}
				if stats := l.Stats(); stats.Renewals != 1 {
					t.Errorf("renewals = %d, want 1", stats.Renewals)
				}
				l.tap(func(r *tapped) { r.read = func() error { return ports.ErrNotLeader } })
				if _, _, err := l.Renew(t.Context(), "a"); !errors.Is(err, test.err) {
					t.Errorf("error where leadership cannot be proved = %v, want %v", err, test.err)
				}
			})
		})
	}
}

// cutExpiryShort makes the expiry of a node end with an unknown outcome.
func (l leasing) cutExpiryShort() {
	l.mustRegister(living("cut", 1))
	release := l.blockExpiry()
	pass(1500 * time.Millisecond)
	release(ports.ErrOutcomeUnknown)
	pass(200 * time.Millisecond)
	l.mustBe("cut", "gone")
}

// Whether a proof is needed must be decided after the renewal is noted: an instance
// that was paused before that may have been deposed meanwhile.
func TestRenewAfterAStandstillProvesLeadershipAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 60))
		l.tap(func(r *tapped) { r.read = func() error { return ports.ErrNotLeader } }) // it was deposed meanwhile
		resumed := make(chan struct{})
		l.tap(func(r *tapped) { r.stopped = resumed })
		renewed := l.renewing(t.Context(), "a")
		mustWait(t, renewed)
		l.Touch(10 * time.Second)
		close(resumed)
		synctest.Wait()
		if _, err := mustAnswer(t, renewed); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
		}
	})
}

// A proof counts for the term in which the renewal was noted.
func TestRenewProvesLeadershipAgainInANewTerm(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 60))
		l.Touch(time.Second - 1)
		proofs := 0
		l.tap(func(r *tapped) {
			r.read = func() error {
				if proofs++; proofs == 1 {
					l.Change(newTerm)
				}
				return nil
			}
		})
		l.mustRenew("a")
		if proofs != 2 {
			t.Errorf("proofs of leadership = %d, want 2", proofs)
		}
	})
}

func TestRenewRefuses(t *testing.T) {
	refused := func(t *testing.T, err, want error, revision domain.Revision, current bool) {
		t.Helper()
		var refusal *domain.Refusal
		if !errors.As(err, &refusal) || !errors.Is(err, want) || refusal.Revision != revision || (refusal.Current != nil) != current {
			t.Errorf("error = %+v, want a refusal at revision %d with %v", err, revision, want)
		}
	}
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 60), spec("for-ever", 1))
		_, _, err := l.Renew(t.Context(), "b")
		refused(t, err, domain.ErrNoSuchNode, 2, false)
		_, _, err = l.Renew(t.Context(), "for-ever")
		refused(t, err, domain.ErrNoTimeToLive, 2, true)
		if reads := l.readsSoFar(); reads != 2 {
			t.Errorf("proofs of leadership for two refusals = %d, want 2", reads)
		}

		// Without a proof, Renew must not say that a node does not exist.
		for _, why := range []error{ports.ErrNotLeader, ports.ErrClosed, context.DeadlineExceeded} {
			l.tap(func(r *tapped) { r.read = func() error { return why } })
			for _, id := range []string{"b", "for-ever"} {
				if _, _, err := l.Renew(t.Context(), id); !errors.Is(err, why) || errors.Is(err, domain.ErrNoSuchNode) {
					t.Errorf("renew %s where leadership cannot be proved: error = %v, want %v", id, err, why)
				}
			}
		}
		l.tap(func(r *tapped) { r.read = nil })

		// The state may be behind what was answered before.
		frozen, _ := l.State()
		l.tap(func(r *tapped) {
			r.frozen = &frozen
			r.read = func() error { r.tap(func(r *tapped) { r.frozen = nil }); return nil }
		})
		if _, err := l.Instance.Propose(t.Context(), domain.Register{Node: mustNode(t, living("b", 60))}); err != nil {
			t.Fatal(err)
		}
		l.mustRenew("b")
		if stats := l.Stats(); stats.Renewals != 1 {
			t.Errorf("stats after refusals = %+v, want 1 renewal", stats)
		}
	})
}

func TestRenewWithoutLeadership(t *testing.T) {
	for name, happens := range map[string]func(*ports.LocalState){
		"at a follower": lead(false),
		"after Close":   func(s *ports.LocalState) { s.Closed, s.Leading = true, false },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 60))
				l.Change(happens)
				want := ports.ErrNotLeader
				if state, _ := l.State(); state.Closed {
					want = ports.ErrClosed
				}
				for _, id := range []string{"a", "b"} {
					if _, _, err := l.Renew(t.Context(), id); !errors.Is(err, want) {
						t.Errorf("renew %s: error = %v, want %v", id, err, want)
					}
				}
				if _, _, err := l.Expire(t.Context(), "p"); !errors.Is(err, want) {
					t.Errorf("Expire: error = %v, want %v", err, want)
				}
			})
		})
	}
}

// A leader that has just been elected is asked before its clock has begun.
func TestRenewAtANewLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2))
		l.Change(lead(false))
		pass(time.Minute)
		l.Change(func(s *ports.LocalState) { s.Leading, s.Term = true, s.Term+1 })
		l.mustRenew("a")
		l.mustEndIn(2*time.Second, "a", "gone")
	})
}

func TestRenewRevivesANodeThatExpiryMadeDown(t *testing.T) {
	for _, state := range []domain.State{domain.Active, domain.Draining} {
		t.Run(string(state), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2, downOnExpiry, in(state)))
				l.mustEndIn(2*time.Second, "a", domain.Down)
				before, _ := l.State()
				if node := l.mustRenew("a"); node.State != state || node.Revision != before.View.Revision()+1 {
					t.Errorf("renewed node = %+v, want state %s at revision %d", node, state, before.View.Revision()+1)
				}
				after, _ := l.State()
				changes, _ := after.View.Since(before.View.Revision())
				if len(changes) != 1 || changes[0].Effect != domain.Updated || changes[0].Reason != domain.ByRequest {
					t.Errorf("changes = %+v, want one update by request", changes)
				}
				l.mustEndIn(2*time.Second, "a", domain.Down) // it has its full time again, and no more
			})
		})
	}
	t.Run("not while it can't be written", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2, downOnExpiry))
			pass(3 * time.Second)
			l.tap(func(r *tapped) {
				r.propose = func(context.Context, domain.Command) error { return ports.ErrOutcomeUnknown }
			})
			if node, _, err := l.Renew(t.Context(), "a"); !errors.Is(err, ports.ErrOutcomeUnknown) || node != nil {
				t.Errorf("renewal = %+v, %v, want an unknown outcome", node, err)
			}
		})
	})
	t.Run("not what a client made down", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l leasing) {
			last := l.mustRegister(living("a", 2, downOnExpiry, in(domain.Down)))
			pass(3 * time.Second)
			if node := l.mustRenew("a"); node.State != domain.Down || node.Revision != last.Revision {
				t.Errorf("renewed node = %+v, want it down at revision %d", node, last.Revision)
			}
			l.mustBe("a", domain.Down)
		})
	})
}

func TestARenewalWaitsForTheExpiryOfItsNode(t *testing.T) {
	tests := map[string]struct {
		spec    domain.NodeSpec
		outcome error
		deposed bool
		err     error
		is      domain.State
	}{
		"a renewal is too late if the node is removed":                        {spec: living("a", 2), err: domain.ErrNoSuchNode, is: "gone"},
		"a renewal revives a node that is made down":                          {spec: living("a", 2, downOnExpiry), is: domain.Active},
		"a renewal is in time if the expiry is refused":                       {spec: living("a", 2), outcome: ports.ErrBusy, is: domain.Active},
		"a renewal is in time if the outcome is unknown and the leader stays": {spec: living("a", 2), outcome: ports.ErrOutcomeUnknown, is: domain.Active},
		// The next leader may yet carry the expiry out.
		"a renewal fails if the outcome is unknown and the leader is deposed": {spec: living("a", 2), outcome: ports.ErrOutcomeUnknown, deposed: true, err: ports.ErrNotLeader, is: domain.Active},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(test.spec)
				release := l.blockExpiry()
				pass(3 * time.Second)
				renewed := l.renewing(t.Context(), "a")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				gaveUp := l.renewing(ctx, "a")
				pass(5 * time.Second)
				mustWait(t, renewed)
				if _, err := mustAnswer(t, gaveUp); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error of a caller that gave up = %v, want its deadline", err)
				}
				if test.deposed {
					l.tap(func(r *tapped) { r.read = func() error { return ports.ErrNotLeader } })
				}
				release(test.outcome)
				node, err := mustAnswer(t, renewed)
				if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("error = %v, want %v", err, test.err)
				}
				if err == nil && (node.ID != "a" || node.State != test.is) {
					t.Errorf("renewed node = %+v, want a in state %s", node, test.is)
				}
				l.mustBe("a", test.is)
				if err == nil { // a node that was answered as renewed stays
					pass(1900 * time.Millisecond)
					l.mustBe("a", test.is)
				}
			})
		})
	}
}

func TestAWriteWaitsForTheExpiryOfItsNode(t *testing.T) {
	inBubble(t, func(t *testing.T, l leasing) {
		l.mustRegister(living("a", 2), living("b", 60))
		release := l.blockExpiry()
		pass(3 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		gaveUp := l.registering(ctx, living("a", 2))
		put := l.registering(t.Context(), living("a", 2))
		batch := begin(func() ([]domain.Change, error) {
			return l.nodes.Batch(t.Context(), []domain.Edit{{Put: new(living("b", 60))}, {Put: new(living("a", 2))}})
		})
		other := l.registering(t.Context(), living("b", 60))
		if change, err := mustAnswer(t, other); err != nil || change.Effect != domain.Unchanged {
			t.Errorf("write of another node = %+v, %v, want no change", change, err)
		}
		pass(5 * time.Second)
		mustWait(t, put)
		mustWait(t, batch)
		if _, err := mustAnswer(t, gaveUp); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("error of a caller that gave up = %v, want its deadline", err)
		}
		release(nil)
		change, err := mustAnswer(t, put)
		changes, batchErr := mustAnswer(t, batch)
		if err := errors.Join(err, batchErr); err != nil {
			t.Fatal(err)
		}
		// The write that came first found no such node.
		if (change.Effect == domain.Added) == (changes[1].Effect == domain.Added) {
			t.Errorf("changes of two writes = %+v and %+v, want exactly one to add the node", change, changes)
		}
		l.mustEndIn(2*time.Second, "a", "gone")
	})
}

func TestAWriteInFlightKeepsItsNodeFromExpiring(t *testing.T) {
	changed := func(s *domain.NodeSpec) { s.Zone = "z" }
	tests := map[string]struct {
		write   func(l leasing) error
		outcome error
		left    time.Duration // after the outcome
	}{
		"a PUT until it renews":                        {write: put(living("a", 2, changed)), left: 2 * time.Second},
		"a PUT that changes nothing until it renews":   {write: put(living("a", 2)), left: 2 * time.Second},
		"a batch until it renews":                      {write: batch(living("a", 2, changed)), left: 2 * time.Second},
		"a batch that changes nothing until it renews": {write: batch(living("a", 2)), left: 2 * time.Second},
		"a batch with the node twice":                  {write: batch(living("a", 2), living("a", 3), living("a", 2)), left: 2 * time.Second},
		"a PUT until it is refused":                    {write: put(living("a", 2)), outcome: ports.ErrBusy},
		"a PUT with an unknown outcome":                {write: put(living("a", 2)), outcome: ports.ErrOutcomeUnknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l leasing) {
				l.mustRegister(living("a", 2), living("b", 2))
				release := l.blockWrites()
				written := begin(func() (struct{}, error) { return struct{}{}, test.write(l) })
				pass(9 * time.Second)
				mustWait(t, written)
				l.mustBe("a", domain.Active)
				l.mustBe("b", "gone")
				release(test.outcome)
				if _, err := mustAnswer(t, written); !errors.Is(err, test.outcome) {
					t.Fatal(err)
				}
				if test.left > 0 {
					pass(test.left - time.Millisecond)
					l.mustBe("a", domain.Active)
				}
				pass(200 * time.Millisecond)
				l.mustBe("a", "gone")
			})
		})
	}
	t.Run("two PUTs until both are answered", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l leasing) {
			l.mustRegister(living("a", 2))
			first := l.blockWrites()
			one := l.registering(t.Context(), living("a", 2))
			second := l.blockWrites()
			two := l.registering(t.Context(), living("a", 2))
			first(ports.ErrBusy) // it also takes the tap out, which the second has passed already
			if _, err := mustAnswer(t, one); !errors.Is(err, ports.ErrBusy) {
				t.Fatal(err)
			}
			pass(9 * time.Second)
			l.mustBe("a", domain.Active)
			second(ports.ErrBusy)
			if _, err := mustAnswer(t, two); !errors.Is(err, ports.ErrBusy) {
				t.Fatal(err)
			}
			pass(200 * time.Millisecond)
			l.mustBe("a", "gone")
		})
	})
}

func put(spec domain.NodeSpec) func(l leasing) error {
	return func(l leasing) error {
		_, err := l.nodes.Register(l.t.Context(), spec, domain.Condition{})
		return err
	}
}

func batch(specs ...domain.NodeSpec) func(l leasing) error {
	return func(l leasing) error {
		var edits []domain.Edit
		for _, spec := range specs {
			edits = append(edits, domain.Edit{Put: &spec})
		}
		_, err := l.nodes.Batch(l.t.Context(), edits)
		return err
	}
}
