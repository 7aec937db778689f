package app_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// pair is a leader n1 and a follower n2 of one registry, at revision 3.
type pair struct {
	leader, follower *portstest.Instance
}

func newPair(t *testing.T) pair {
	t.Helper()
	leader := portstest.NewInstance("n1", "h:1")
	p := pair{leader, leader.NewFollower("n2", "h:2")}
	write(t, leader, 3)
	return p
}

func cutOff(s *ports.LocalState)     { s.InTouch = false }
func inTouch(s *ports.LocalState)    { s.InTouch = true }
func leaderless(s *ports.LocalState) { s.LeaderID, s.LeaderRaftAddress = "", "" }
func starting(s *ports.LocalState)   { s.CaughtUp = false }
func shut(s *ports.LocalState)       { s.Closed = true }
func deposed(s *ports.LocalState)    { s.Leading, s.LeaderID = false, "" }

func TestViewFromEachSource(t *testing.T) {
	tests := map[string]struct {
		at                  func(pair) *portstest.Instance // nil: the follower
		given               func(*ports.LocalState)
		leader, here, stale error
	}{
		"the leader answers from every source":                    {at: func(p pair) *portstest.Instance { return p.leader }},
		"a follower answers, except as the leader":                {leader: ports.ErrNotLeader},
		"without a leader it answers from its state":              {given: leaderless, leader: ports.ErrNotLeader, here: ports.ErrNoLeader},
		"when it is cut off, too":                                 {given: cutOff, leader: ports.ErrNotLeader},
		"a follower that has not caught up answers nothing stale": {given: starting, leader: ports.ErrNotLeader, stale: ports.ErrNotCaughtUp},
		"a follower that shuts down answers nothing":              {given: shut, leader: ports.ErrClosed, here: ports.ErrClosed, stale: ports.ErrClosed},
		"nor if it has not caught up before":                      {given: func(s *ports.LocalState) { starting(s); shut(s) }, leader: ports.ErrClosed, here: ports.ErrClosed, stale: ports.ErrClosed},
		"the leader answers even without contact":                 {at: func(p pair) *portstest.Instance { return p.leader }, given: cutOff},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			at := p.follower
			if test.at != nil {
				at = test.at(p)
			}
			if test.given != nil {
				at.Change(test.given)
			}
			for source, want := range map[ports.Source]error{ports.Leader: test.leader, ports.Here: test.here, ports.Stale: test.stale} {
				view, err := newNodes(at).View(t.Context(), ports.Read{Source: source})
				if !errors.Is(err, want) || (err == nil) != (want == nil) {
					t.Errorf("View from source %d: error = %v, want %v", source, err, want)
				}
				if err == nil && view.Revision() != 3 || err != nil && view.Revision() != 0 {
					t.Errorf("View from source %d: revision = %d, want 3, or 0 with an error", source, view.Revision())
				}
			}
		})
	}
}

// A stale read asks nobody, and the other two kinds ask each time.
func TestOnlyAStaleViewAsksNobody(t *testing.T) {
	p := newPair(t)
	state, _ := p.leader.State()
	nodes := app.NewNodes(nil, fixedLocal(state), nil)
	if view, err := nodes.View(t.Context(), ports.Read{Source: ports.Stale}); err != nil || view.Revision() != 3 {
		t.Errorf("stale view = revision %d, %v, want 3", view.Revision(), err)
	}
	if _, err := newNodes(p.leader).View(endedContext(), ports.Read{}); !errors.Is(err, context.Canceled) {
		t.Errorf("view from the leader: error = %v, want %v", err, context.Canceled)
	}
	if _, err := newNodes(p.follower).View(endedContext(), ports.Read{Source: ports.Here}); !errors.Is(err, context.Canceled) {
		t.Errorf("view at the follower: error = %v, want %v", err, context.Canceled)
	}
}

func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestViewNotTooStale(t *testing.T) {
	const ms = time.Millisecond
	tests := map[string]struct {
		contact time.Duration // negative: never
		max     *time.Duration
		err     error
	}{
		"without a bound an old contact is enough": {time.Hour, nil, nil},
		"without a bound no contact is needed":     {-1, nil, nil},
		"up to the bound it is fresh enough":       {500 * ms, new(500 * ms), nil},
		"beyond the bound it is too stale":         {500*ms + 1, new(500 * ms), ports.ErrTooStale},
		"without any contact it is too stale":      {-1, new(time.Hour), ports.ErrTooStale},
		"a follower never meets a bound of zero":   {1, new(time.Duration(0)), ports.ErrTooStale},
		"the leader meets a bound of zero":         {0, new(time.Duration(0)), nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.follower.Touch(test.contact)
			view, err := newNodes(p.follower).View(t.Context(), ports.Read{Source: ports.Stale, MaxStale: test.max})
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error = %v, want %v", err, test.err)
			}
			if err != nil && view.Revision() != 0 {
				t.Errorf("view with an error = revision %d, want none", view.Revision())
			}
		})
	}
	for name, test := range map[string]struct {
		contact time.Duration
		err     error
	}{
		"a leader within its lease is fresh": {30 * ms, nil},
		"a leader beyond its lease is not":   {time.Second, ports.ErrTooStale},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.leader.Touch(test.contact)
			_, err := newNodes(p.leader).View(t.Context(), ports.Read{Source: ports.Stale, MaxStale: new(time.Duration(0))})
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error = %v, want %v", err, test.err)
			}
		})
	}
	t.Run("the bound is checked at the end of a wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			read := ports.Read{Source: ports.Stale, MaxStale: new(500 * ms), AtLeast: 4, Wait: time.Minute}
			viewed := viewing(t, t.Context(), p.follower, read)
			p.follower.Touch(time.Second)
			write(t, p.leader, 1)
			synctest.Wait()
			if _, err := mustAnswer(t, viewed); !errors.Is(err, ports.ErrTooStale) {
				t.Errorf("error = %v, want %v", err, ports.ErrTooStale)
			}
		})
	})
}

// viewing calls View in a goroutine of its own, and returns once it waits.
func viewing(t *testing.T, ctx context.Context, at *portstest.Instance, read ports.Read) <-chan outcome[domain.Revision] {
	t.Helper()
	nodes := newNodes(at)
	return begin(func() (domain.Revision, error) {
		view, err := nodes.View(ctx, read)
		return view.Revision(), err
	})
}

func TestViewThatWaits(t *testing.T) {
	past := func(r domain.Revision) ports.Read { return ports.Read{Past: &r, Wait: time.Minute} }
	atLeast := func(r domain.Revision) ports.Read { return ports.Read{AtLeast: r, Wait: time.Minute} }
	at := func(d time.Duration, do func(t *testing.T, p pair)) func(*testing.T, pair) {
		return func(t *testing.T, p pair) { pass(d); do(t, p) }
	}
	nothing := func(*testing.T, pair) {}
	wrote := func(n int) func(*testing.T, pair) {
		return at(20*time.Second, func(t *testing.T, p pair) { write(t, p.leader, n) })
	}
	change := func(with func(*ports.LocalState)) func(*testing.T, pair) {
		return at(20*time.Second, func(t *testing.T, p pair) {
			p.leader.Change(with)
			p.follower.Change(with)
		})
	}
	const now, later, over = 0, 20 * time.Second, time.Minute
	all := []ports.Source{ports.Leader, ports.Here, ports.Stale}
	tests := map[string]struct {
		read    ports.Read
		happens func(*testing.T, pair)
		sources []ports.Source
		takes   time.Duration
		want    domain.Revision
		err     error
	}{
		"a revision that is reached is answered at once":     {atLeast(3), nothing, all, now, 3, nil},
		"a revision beyond the position is answered at once": {past(2), nothing, all, now, 3, nil},
		"both may be required":                               {ports.Read{AtLeast: 3, Past: new(domain.Revision(2)), Wait: time.Minute}, nothing, all, now, 3, nil},
		"a revision that is reached later is waited for":     {atLeast(4), wrote(1), all, later, 4, nil},
		"one change beyond the position is enough":           {past(3), wrote(1), all, later, 4, nil},
		"one change short of the revision is not enough":     {atLeast(5), wrote(1), all, over, 0, ports.ErrBehind},
		"a position ahead must be passed, not only reached":  {past(4), wrote(1), all, over, 4, nil},
		"both must hold": {ports.Read{AtLeast: 4, Past: new(domain.Revision(4)), Wait: time.Minute}, wrote(1), all, over, 4, nil},
		"passing only the position is not enough":              {ports.Read{AtLeast: 5, Past: new(domain.Revision(3)), Wait: time.Minute}, wrote(1), all, over, 0, ports.ErrBehind},
		"a revision that is not reached is behind":             {atLeast(4), nothing, all, over, 0, ports.ErrBehind},
		"without a change the answer is the current view":      {past(3), nothing, all, over, 3, nil},
		"without a wait, a revision ahead is behind at once":   {ports.Read{AtLeast: 4}, nothing, all, now, 0, ports.ErrBehind},
		"without a wait, the current view is answered at once": {ports.Read{Past: new(domain.Revision(3))}, nothing, all, now, 3, nil},
		"the shutdown of the instance ends the wait":           {past(3), change(shut), all, later, 0, ports.ErrClosed},
		"the loss of leadership ends the wait at the leader":   {past(3), change(deposed), all[:1], later, 0, ports.ErrNotLeader},
		"the loss of the leader does not end a stale wait":     {past(3), change(leaderless), all[2:], over, 3, nil},
		"the loss of contact ends a linearizable wait":         {past(3), change(cutOff), all[1:2], later, 0, ports.ErrCutOff},
		"the loss of contact does not end a stale wait":        {past(3), change(cutOff), all[2:], over, 3, nil},
		"nor a stale wait for a revision":                      {atLeast(4), change(cutOff), all[2:], over, 0, ports.ErrBehind},
		"an unchanged view is proved at the end of the wait":   {past(3), change(leaderless), all[1:2], over, 0, ports.ErrNoLeader},
	}
	for name, test := range tests {
		for _, source := range test.sources {
			t.Run(fmt.Sprintf("%s, from source %d", name, source), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t)
					asked := p.follower
					if source == ports.Leader {
						asked = p.leader
					}
					read := test.read
					read.Source = source
					viewed := viewing(t, t.Context(), asked, read)
					began := time.Now()
					if test.takes != now {
						mustWait(t, viewed)
						test.happens(t, p)
						synctest.Wait()
					}
					if test.takes == over {
						pass(time.Minute - time.Since(began) - 1)
						mustWait(t, viewed)
						pass(1)
					}
					revision, err := mustAnswer(t, viewed)
					if revision != test.want || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
						t.Errorf("View = revision %d, %v, want %d, %v", revision, err, test.want, test.err)
					}
				})
			})
		}
	}
}

func TestAViewThatWaitsEndsWithItsContext(t *testing.T) {
	for _, source := range []ports.Source{ports.Leader, ports.Here, ports.Stale} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			viewed := viewing(t, ctx, newPair(t).leader, ports.Read{Source: source, AtLeast: 4, Wait: time.Minute})
			pass(time.Second - 1)
			mustWait(t, viewed)
			pass(1)
			if _, err := mustAnswer(t, viewed); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("View from source %d: error = %v, want %v", source, err, context.DeadlineExceeded)
			}
		})
	}
}

// A stale view that waits while the instance is cut off sees changes once it is not.
func TestAStaleViewWaitsThroughALossOfContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		viewed := viewing(t, t.Context(), p.follower, ports.Read{Source: ports.Stale, AtLeast: 4, Wait: time.Minute})
		p.follower.Change(func(s *ports.LocalState) { cutOff(s); leaderless(s) })
		pass(30 * time.Second)
		mustWait(t, viewed)
		p.follower.Change(inTouch)
		write(t, p.leader, 1)
		synctest.Wait()
		if revision, err := mustAnswer(t, viewed); revision != 4 || err != nil {
			t.Errorf("View = revision %d, %v, want 4", revision, err)
		}
	})
}

// The state of an instance that starts may be old, but not for a caller that says how
// new the view has to be.
func TestAStaleViewWaitsWhileTheInstanceCatchesUp(t *testing.T) {
	for atLeast, revised := range map[domain.Revision]bool{3: false, 4: true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.follower.Change(starting)
			read := ports.Read{Source: ports.Stale, AtLeast: atLeast, Wait: time.Minute}
			viewed := viewing(t, t.Context(), p.follower, read)
			if revised {
				pass(time.Second)
				mustWait(t, viewed)
				write(t, p.leader, 1)
				synctest.Wait()
			}
			if revision, err := mustAnswer(t, viewed); revision != atLeast || err != nil {
				t.Errorf("View = revision %d, %v, want %d", revision, err, atLeast)
			}
			read.AtLeast, read.Wait = 5, time.Second
			viewed = viewing(t, t.Context(), p.follower, read)
			pass(time.Second)
			if _, err := mustAnswer(t, viewed); !errors.Is(err, ports.ErrNotCaughtUp) {
				t.Errorf("error when the wait is over = %v, want %v", err, ports.ErrNotCaughtUp)
			}
		})
	}
}

// A client that names the revision of its write reads the write at any instance.
func TestReadYourWritesAtAnyInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		behind, _ := p.follower.State()
		local := &tapped{Instance: p.follower, frozen: &behind}
		nodes := app.NewNodes(p.follower, local, newLeases(p.follower))
		written, err := newNodes(p.leader).Register(t.Context(), spec("mine", 1), domain.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		stale := ports.Read{Source: ports.Stale}
		if view, err := nodes.View(t.Context(), stale); err != nil || view.Revision() != 3 {
			t.Errorf("view without the revision of the write = %d, %v, want 3", view.Revision(), err)
		}
		stale.AtLeast, stale.Wait = written.Revision, time.Minute
		viewed := begin(func() (domain.View, error) { return nodes.View(t.Context(), stale) })
		pass(time.Second)
		mustWait(t, viewed)
		local.tap(func(r *tapped) { r.frozen = nil })
		p.follower.Change(func(*ports.LocalState) {}) // it has come
		synctest.Wait()
		view, err := mustAnswer(t, viewed)
		if _, mine := view.Node("mine"); err != nil || !mine {
			t.Errorf("view with the revision of the write = %d, %v, want one with the node", view.Revision(), err)
		}
	})
}
