package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// begin makes n3 at h:3 a nonvoter that is to be a voter and lags, and gives the
// answer to who asked for that.
func (p promoting) begin(t *testing.T) <-chan error {
	t.Helper()
	p.peers.Answer("h:3", far("n3", 1))
	answer := make(chan error, 1)
	go func() {
		_, err := p.Add(context.WithoutCancel(t.Context()), voter("n3", "h:3"), false)
		answer <- err
	}()
	time.Sleep(time.Second)
	p.mustHave(t, nonvoter("n3", "h:3"))
	p.mustWant(t, "n3")
	return answer
}

func (p promoting) catchUp() { p.peers.Answer("h:3", far("n3", 100)) }

func mustAddNow(t *testing.T, p promoting, wanted domain.Instance) {
	t.Helper()
	if _, err := p.Add(t.Context(), wanted, false); err != nil {
		t.Fatalf("add %+v: %v", wanted, err)
	}
}

func TestPromotion(t *testing.T) {
	tests := map[string]func(t *testing.T, p promoting){
		"a nonvoter is promoted once it has the log": func(t *testing.T, p promoting) {
			answer := p.begin(t)
			p.catchUp()
			if err := <-answer; err != nil {
				t.Error(err)
			}
			p.mustHave(t, voter("n3", "h:3"))
			synctest.Wait()
			p.mustWant(t)
		},
		"a nonvoter is promoted although the caller gave up": func(t *testing.T, p promoting) {
			p.peers.Answer("h:3", far("n3", 1))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := p.Add(ctx, voter("n3", "h:3"), false); !errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("error of a caller that gave up = %v, want %v", err, ports.ErrOutcomeUnknown)
			}
			time.Sleep(time.Hour)
			p.mustHave(t, nonvoter("n3", "h:3"))
			p.catchUp()
			time.Sleep(time.Second)
			p.mustHave(t, voter("n3", "h:3"))
			p.mustWant(t)
		},
		"a nonvoter has to reach the end that the log had when it was asked": func(t *testing.T, p promoting) {
			p.begin(t)
			for range 20 { // faster than it is looked at
				p.instance.Change(func(s *ports.LocalState) { s.Applied += 10 })
				state, _ := p.instance.State()
				time.Sleep(40 * time.Millisecond)
				p.peers.Answer("h:3", far("n3", state.Applied))
			}
			p.mustHave(t, voter("n3", "h:3"))
		},
		"a request for a nonvoter ends the promotion": func(t *testing.T, p promoting) {
			answer := p.begin(t)
			mustAddNow(t, p, nonvoter("n3", "h:3"))
			if err := <-answer; !errors.Is(err, ports.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "another request") {
				t.Errorf("error of the caller that wanted a voter = %v, want an unknown outcome because of another request", err)
			}
			p.catchUp()
			time.Sleep(time.Minute)
			p.mustHave(t, nonvoter("n3", "h:3"))
			p.mustWant(t)
		},
		"a nonvoter that moves as a nonvoter is not promoted": func(t *testing.T, p promoting) {
			p.begin(t)
			p.peers.Answer("h:4", far("n3", 100))
			mustAddNow(t, p, nonvoter("n3", "h:4"))
			time.Sleep(time.Minute)
			p.mustHave(t, nonvoter("n3", "h:4"))
			p.mustWant(t)
		},
		"a nonvoter that moves as a voter is promoted at the new address": func(t *testing.T, p promoting) {
			answer := p.begin(t)
			p.peers.Answer("h:4", far("n3", 100))
			mustAddNow(t, p, voter("n3", "h:4"))
			if err := <-answer; !errors.Is(err, ports.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "to h:4") {
				t.Errorf("error of the caller that wanted a voter at h:3 = %v, want an unknown outcome because it moved to h:4", err)
			}
			p.mustHave(t, voter("n3", "h:4"))
			synctest.Wait()
			p.mustWant(t)
		},
		"a removed instance is not promoted, even after it returns": func(t *testing.T, p promoting) {
			answer := p.begin(t)
			if got, err := p.Remove(t.Context(), "n3"); err != nil || got != nonvoter("n3", "h:3") {
				t.Errorf("Remove = %+v, %v, want the nonvoter", got, err)
			}
			removed := time.Now()
			if err := <-answer; !errors.Is(err, ports.ErrOutcomeUnknown) || time.Since(removed) > 0 {
				t.Errorf("error of the caller that wanted a voter = %v after %v, want an unknown outcome at once", err, time.Since(removed))
			}
			p.catchUp()
			p.mustWant(t)
			mustAddNow(t, p, nonvoter("n3", "h:3"))
			time.Sleep(time.Minute)
			p.mustHave(t, nonvoter("n3", "h:3"))
		},
		"a demoted instance that is added again is promoted in the end": func(t *testing.T, p promoting) {
			p.peers.Answer("h:3", far("n3", 100))
			for range 3 {
				mustAddNow(t, p, voter("n3", "h:3"))
				mustAddNow(t, p, nonvoter("n3", "h:3"))
			}
			time.Sleep(time.Minute)
			p.mustHave(t, nonvoter("n3", "h:3"))
			mustAddNow(t, p, voter("n3", "h:3"))
			p.mustHave(t, voter("n3", "h:3"))
		},
		"a promotion without a member is forgotten after a while": func(t *testing.T, p promoting) {
			if err := p.instance.AddPromotion(t.Context(), "n8"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(9 * time.Second)
			p.mustWant(t, "n8")
			time.Sleep(3 * time.Second)
			p.mustWant(t)
		},
		"an instance that becomes a member late is promoted": func(t *testing.T, p promoting) {
			if err := p.instance.AddPromotion(t.Context(), "n3"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(9 * time.Second)
			p.catchUp()
			mustAdd(t, p.instance, nonvoter("n3", "h:3"))
			time.Sleep(5 * time.Second)
			p.mustHave(t, voter("n3", "h:3"))
			p.mustWant(t)
		},
		"the promotion of an instance that is a voter by now is settled": func(t *testing.T, p promoting) {
			answer := p.begin(t)
			mustAdd(t, p.instance, voter("n3", "h:3"))
			if err := <-answer; err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			p.mustWant(t)
		},
		"another instance at its address does not count": func(t *testing.T, p promoting) {
			p.begin(t)
			for _, other := range []ports.Identity{far("n4", 1000), {RaftID: "n3", ClusterID: "other", Applied: 1000}, {RaftID: "n3", Applied: 1000}} {
				p.peers.Answer("h:3", other)
				time.Sleep(time.Minute)
				p.mustHave(t, nonvoter("n3", "h:3"))
			}
			p.catchUp()
			time.Sleep(2 * time.Second)
			p.mustHave(t, voter("n3", "h:3"))
		},
		"the next leader continues the promotion": func(t *testing.T, p promoting) {
			answer := p.begin(t)
			config := configOf(p.follower, p.peers)
			config.Self = far("n2", 0)
			next := app.NewCluster(config)
			if err := next.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = next.Close(context.WithoutCancel(t.Context())) }()
			if _, err := p.HandOver(t.Context(), "n2"); err != nil {
				t.Fatal(err)
			}
			if err := <-answer; !errors.Is(err, ports.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "next leader") {
				t.Errorf("error of the caller of the old leader = %v, want an unknown outcome that names the next leader", err)
			}
			time.Sleep(time.Second)
			p.mustHave(t, nonvoter("n3", "h:3"))
			p.catchUp()
			time.Sleep(time.Second)
			p.mustHave(t, voter("n3", "h:3"))
			p.mustWant(t)
		},
	}
	eachPromoting(t, tests)
}

// An answer counts only if the member is still the one that was asked.
func TestPromotionOfAnInstanceThatChangesWhileItIsAsked(t *testing.T) {
	tests := map[string]struct {
		meanwhile func(context.Context, *portstest.Instance) error
		want      domain.Instance
	}{
		"it moves to an address without an answer": {
			func(ctx context.Context, i *portstest.Instance) error { return i.Add(ctx, nonvoter("n3", "h:4")) }, nonvoter("n3", "h:4")},
		"its promotion ends": {
			func(ctx context.Context, i *portstest.Instance) error { return i.RemovePromotion(ctx, "n3") }, nonvoter("n3", "h:3")},
		"it is removed": {
			func(ctx context.Context, i *portstest.Instance) error { return i.Remove(ctx, "n3") }, domain.Instance{}},
		"it is made a voter": {
			func(ctx context.Context, i *portstest.Instance) error { return i.Add(ctx, voter("n3", "h:3")) }, voter("n3", "h:3")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := portstest.NewInstance("n1", "h:1")
				mustAdd(t, i, nonvoter("n3", "h:3"))
				if err := i.AddPromotion(t.Context(), "n3"); err != nil {
					t.Fatal(err)
				}
				var once sync.Once
				c := newCluster(i, peersFunc(func(ctx context.Context, raftAddress string) (ports.Identity, error) {
					if raftAddress != "h:3" {
						return ports.Identity{}, errors.New("nobody answers")
					}
					if time.Since(started) > 0 { // the first requests come from the watch
						once.Do(func() {
							if err := test.meanwhile(ctx, i); err != nil {
								t.Error(err)
							}
						})
					}
					return far("n3", 100), nil
				}))
				c.WatchInterval = 1000 * time.Hour
				if err := c.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				state, _ := i.State()
				if now, _ := state.Roster.Find("n3"); now != test.want {
					t.Errorf("n3 = %+v, want %+v", now, test.want)
				}
				if err := c.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// unwatched gives the use cases of an instance without a watch of its members, so that every
// request to a member is for a promotion.
func unwatched(i *counted, peers ports.Peers, log io.Writer) *app.Cluster {
	config := configOf(i, peers)
	config.Logger = slog.New(slog.NewTextHandler(log, nil))
	config.WatchInterval = 1000 * time.Hour
	return app.NewCluster(config)
}

// A silent instance is asked now and then, and delays no other request.
func TestPromotionOfASilentInstanceCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked := map[string]int{}
		peers := peersFunc(func(ctx context.Context, raftAddress string) (ports.Identity, error) {
			mu.Lock()
			asked[raftAddress]++
			mu.Unlock()
			if raftAddress == "h:4" {
				return far("n4", 100), nil
			}
			<-ctx.Done()
			return ports.Identity{}, ctx.Err()
		})
		log := &strings.Builder{}
		i := &counted{Instance: portstest.NewInstance("n1", "h:1")}
		c := unwatched(i, peers, log)
		if err := c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := c.Add(t.Context(), voter("n3", "h:3"), true)
		if err != nil || got != nonvoter("n3", "h:3") {
			t.Errorf("forced add of a silent instance = %+v, %v, want a nonvoter", got, err)
		}
		began := time.Now()
		if _, err := c.Add(t.Context(), voter("n4", "h:4"), false); err != nil || time.Since(began) != 50*time.Millisecond {
			t.Errorf("add of another instance = %v after %v, want success after 50ms", err, time.Since(began))
		}
		synctest.Wait()
		wants := i.wants.Load()
		mu.Lock()
		asked["h:3"] = 0
		mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		silence, written := asked["h:3"], i.wants.Load()-wants
		if _, err := c.Remove(t.Context(), "n3"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		reads := i.reads.Load()
		time.Sleep(time.Minute)
		if now := i.reads.Load(); now != reads {
			t.Errorf("proofs of leadership without promotions = %d, want none", now-reads)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if silence < 20 || silence > 35 {
			t.Errorf("requests to the silent instance in a minute = %d, want 20 to 35", silence)
		}
		if written > 0 {
			t.Errorf("log entries in a minute = %d, want none", written)
		}
		if n := strings.Count(log.String(), "can't be made one yet"); n != 1 {
			t.Errorf("log lines about the silent instance = %d, want 1:\n%s", n, log)
		}
	})
}

// An instance that answers but never catches up is logged, and asked now and then.
func TestAnInstanceThatNeverCatchesUpIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, applied atomic.Int64
		peers := peersFunc(func(context.Context, string) (ports.Identity, error) {
			asked.Add(1)
			return far("n3", uint64(applied.Load())), nil
		})
		log := &strings.Builder{}
		i := &counted{Instance: portstest.NewInstance("n1", "h:1")}
		i.Change(func(s *ports.LocalState) { s.Applied = 100 })
		c := unwatched(i, peers, log)
		if err := c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Add(t.Context(), voter("n3", "h:3"), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		asked.Store(0)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := asked.Load(); n < 50 || n > 61 {
			t.Errorf("requests to the lagging instance in a minute = %d, want 50 to 61", n)
		}
		applied.Store(1000)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if state, _ := i.State(); len(state.Promotions) > 0 {
			t.Errorf("promotions after the instance has caught up = %v, want none", state.Promotions)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		// The warning comes after ten seconds.
		const soon, far = "time=2000-01-01T00:00:10.", "up to 0, and has to come to 100"
		if said := log.String(); strings.Count(said, "can't be made one yet") != 1 || !strings.HasPrefix(said, soon) || !strings.Contains(said, far) {
			t.Errorf("log = %s, want one line about the lagging instance", said)
		}
	})
}

// counted counts what promotions cost the cluster: entries of the log, and rounds
// of heartbeats.
type counted struct {
	*portstest.Instance
	wants, reads atomic.Int64
}

func (c *counted) ReadIndex(ctx context.Context) (uint64, error) {
	c.reads.Add(1)
	return c.Instance.ReadIndex(ctx)
}

func (c *counted) AddPromotion(ctx context.Context, id string) error {
	c.wants.Add(1)
	return c.Instance.AddPromotion(ctx, id)
}

func (c *counted) RemovePromotion(ctx context.Context, id string) error {
	c.wants.Add(1)
	return c.Instance.RemovePromotion(ctx, id)
}

// stalled is an instance whose changes of the membership never end in time.
type stalled struct{ *portstest.Instance }

func (stalled) Add(ctx context.Context, _ domain.Instance) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stalled) Remove(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// A request that took effect in part must not be reported as not done.
func TestARequestThatIsHalfDoneHasAnUnknownOutcome(t *testing.T) {
	tests := map[string]struct {
		member *domain.Instance
		wanted bool
		ask    func(context.Context, *app.Cluster) error
		half   bool
	}{
		"a new voter": {ask: adding(voter("n3", "h:3"))},
		"a nonvoter that is to be a voter": {
			member: new(nonvoter("n3", "h:3")), ask: adding(voter("n3", "h:3")), half: true},
		"a nonvoter that is to stay one":       {member: new(nonvoter("n3", "h:3")), ask: adding(nonvoter("n3", "h:3"))},
		"one that was to be a voter":           {member: new(nonvoter("n3", "h:3")), wanted: true, ask: adding(nonvoter("n3", "h:3")), half: true},
		"a removal":                            {member: new(nonvoter("n3", "h:3")), ask: removing("n3")},
		"a removal of one that was to be more": {member: new(nonvoter("n3", "h:3")), wanted: true, ask: removing("n3"), half: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
				peers.Answer("h:3", far("n3", 0))
				if test.member != nil {
					mustAdd(t, i, *test.member)
				}
				if test.wanted {
					if err := i.AddPromotion(t.Context(), "n3"); err != nil {
						t.Fatal(err)
					}
				}
				c := newCluster(stalled{i}, peers)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := test.ask(ctx, c)
				if half := errors.Is(err, ports.ErrOutcomeUnknown); half != test.half || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("outcome unknown = %v, want %v, with the deadline: %v", half, test.half, err)
				}
				// The next request must not be blocked.
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := test.ask(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error of the next request = %v, want its deadline", err)
				}
			})
		})
	}
}

// unproven is an instance that can't give the index that others have to reach.
type unproven struct{ *portstest.Instance }

func (unproven) ReadIndex(context.Context) (uint64, error) { return 0, ports.ErrNoLeader }

func TestNobodyIsPromotedWithoutAReadIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
		peers.Answer("h:3", far("n3", 100))
		mustAdd(t, i, nonvoter("n3", "h:3"))
		if err := i.AddPromotion(t.Context(), "n3"); err != nil {
			t.Fatal(err)
		}
		p := promoting{Cluster: newCluster(unproven{i}, peers), instance: i}
		if err := p.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer p.close(t)
		time.Sleep(time.Minute)
		p.mustHave(t, nonvoter("n3", "h:3"))
	})
}

// losing is an instance that leads no longer when it comes to a step: before the
// step is done, or after that, with nobody to tell.
type losing struct {
	*portstest.Instance
	step  string
	after bool

	mu   sync.Mutex
	lost bool
}

func (l *losing) at(step string, do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost || step != l.step {
		return do()
	}
	l.lost = true
	if !l.after {
		return errors.Join(l.Instance.HandOver(context.Background(), "n2"), ports.ErrNotLeader)
	}
	return errors.Join(do(), l.Instance.HandOver(context.Background(), "n2"), ports.ErrOutcomeUnknown)
}

func (l *losing) AddPromotion(ctx context.Context, id string) error {
	return l.at("want", func() error { return l.Instance.AddPromotion(ctx, id) })
}

func (l *losing) RemovePromotion(ctx context.Context, id string) error {
	return l.at("settle", func() error { return l.Instance.RemovePromotion(ctx, id) })
}

func (l *losing) Add(ctx context.Context, instance domain.Instance) error {
	return l.at("add a "+string(instance.Suffrage), func() error { return l.Instance.Add(ctx, instance) })
}

func (l *losing) Roster(ctx context.Context) (roster domain.Roster, err error) {
	err = l.at("roster", func() error { roster, err = l.Instance.Roster(ctx); return err })
	return roster, err
}

func (l *losing) ReadIndex(ctx context.Context) (index uint64, err error) {
	err = l.at("read index", func() error { index, err = l.Instance.ReadIndex(ctx); return err })
	return index, err
}

// At whatever step leadership is lost, the instance is a voter in the end: by the next
// leader alone, or, where the asker was told that nothing happened, once it asks
// that one.
func TestLeadershipIsLostWhileAnInstanceIsPromoted(t *testing.T) {
	for _, step := range []string{"roster", "want", "add a nonvoter", "read index", "add a voter", "settle"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done: %v", step, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					leader, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
					follower := leader.NewFollower("n2", "h:2")
					peers.Answer("h:3", far("n3", 100))
					first := &losing{Instance: leader, step: step, after: after}
					clusters := map[string]*app.Cluster{}
					open := func(id string, i member) {
						config := configOf(i, peers)
						config.Self = answer(id)
						c := app.NewCluster(config)
						if err := c.Open(t.Context()); err != nil {
							t.Fatal(err)
						}
						clusters[id] = c
					}
					open("n1", first)
					open("n2", follower)
					ask := func(id string) error {
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						defer cancel()
						_, err := clusters[id].Add(ctx, voter("n3", "h:3"), false)
						return err
					}
					err := ask("n1")
					time.Sleep(15 * time.Second)
					state, _ := leader.State()
					now, isMember := state.Roster.Find("n3")
					switch {
					case errors.Is(err, ports.ErrNotLeader), errors.Is(err, ports.ErrOutcomeUnknown) && !isMember:
						if err := ask("n2"); err != nil {
							t.Errorf("request to the next leader: error = %v, want none", err)
						}
					case now != voter("n3", "h:3"):
						t.Errorf("answer = %v with n3 as %+v, want success only for a voter", err, now)
					}
					time.Sleep(time.Second)
					state, _ = leader.State()
					if now, _ := state.Roster.Find("n3"); now != voter("n3", "h:3") {
						t.Errorf("n3 in the end = %+v, want a voter", now)
					}
					if len(state.Promotions) > 0 || state.Leading {
						t.Errorf("in the end promotions = %q and n1 leads = %v, want none and false", state.Promotions, state.Leading)
					}
					for _, c := range clusters {
						if err := c.Close(context.WithoutCancel(t.Context())); err != nil {
							t.Error(err)
						}
					}
				})
			})
		}
	}
}
