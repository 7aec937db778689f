package app_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// news gives what a cluster stream delivers now: "snapshot" with the reachable
// members, events, and the error that ended it; and the channel to wait on.
func news(stream ports.ClusterStream) ([]string, <-chan struct{}) {
	delivery, later, err := stream.Next()
	var told []string
	if err != nil {
		told = append(told, err.Error())
	}
	if delivery.Snapshot != nil {
		told = append(told, "snapshot")
		for _, m := range delivery.Snapshot.Members {
			if m.Reachable {
				told = append(told, m.ID)
			}
		}
	}
	for _, event := range delivery.Events {
		told = append(told, fmt.Sprintf("%s %s", event.Type, event.Member.ID))
	}
	return told, later
}

func mustHear(t *testing.T, stream ports.ClusterStream, want ...string) {
	t.Helper()
	if got, _ := news(stream); !reflect.DeepEqual(got, want) {
		t.Fatalf("stream delivered %q, want %q", got, want)
	}
}

// mustHearWithin waits for the next delivery of the stream, and checks the time
// that it took.
func mustHearWithin(t *testing.T, stream ports.ClusterStream, takes time.Duration, want ...string) {
	t.Helper()
	began := time.Now()
	for {
		got, later := news(stream)
		if len(got) == 0 && time.Since(began) <= takes {
			<-later // closed in every round
			continue
		}
		if took := time.Since(began); !reflect.DeepEqual(got, want) || took != takes {
			t.Fatalf("stream delivered %q after %v, want %q after %v", got, took, want, takes)
		}
		return
	}
}

// watched is a cluster of n1, which leads, and n2, with its watch open since an
// instant between two rounds.
type watched struct {
	*app.Cluster
	instance *portstest.Instance
	peers    *portstest.Peers
}

func watch(t *testing.T) watched {
	t.Helper()
	w := watched{instance: portstest.NewInstance("n1", "h:1"), peers: portstest.NewPeers()}
	mustAdd(t, w.instance, voter("n2", "h:2"))
	w.peers.Answer("h:2", answer("n2"))
	w.Cluster = newCluster(w.instance, w.peers)
	if err := w.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait() // the first round is over
	return w
}

func (w watched) close(t *testing.T) {
	t.Helper()
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func (w watched) follow(t *testing.T) ports.ClusterStream {
	t.Helper()
	stream, err := w.Follow(t.Context(), ports.Leader)
	if err != nil {
		t.Fatalf("follow: %v", err)
	}
	return stream
}

func TestClusterStream(t *testing.T) {
	notLeader, closed := ports.ErrNotLeader.Error(), ports.ErrClosed.Error()
	tests := map[string]func(t *testing.T, w watched, stream ports.ClusterStream){ // after its snapshot
		"without a change nothing is delivered": func(t *testing.T, _ watched, stream ports.ClusterStream) {
			time.Sleep(10 * time.Second)
			mustHear(t, stream)
		},
		"an instance that falls silent is noticed in the next round": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.peers.Silence("h:2")
			mustHearWithin(t, stream, time.Second, "instance_unreachable n2")
		},
		"an instance that answers again is noticed in the next round": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.peers.Silence("h:2")
			mustHearWithin(t, stream, time.Second, "instance_unreachable n2")
			w.peers.Answer("h:2", answer("n2"))
			mustHearWithin(t, stream, time.Second, "instance_reachable n2")
		},
		"an instance that advertises another address is updated": func(t *testing.T, w watched, stream ports.ClusterStream) {
			other := answer("n2")
			other.ApplicationAddress = "elsewhere:80"
			w.peers.Answer("h:2", other)
			mustHearWithin(t, stream, time.Second, "instance_updated n2")
		},
		"an added instance is delivered at once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			mustAdd(t, w.instance, voter("n3", "h:3"))
			mustHearWithin(t, stream, 0, "instance_added n3")
		},
		"a removed instance is delivered at once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			if err := w.instance.Remove(t.Context(), "n2"); err != nil {
				t.Fatal(err)
			}
			mustHearWithin(t, stream, 0, "instance_removed n2")
		},
		"an instance that moves is delivered at once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.peers.Answer("h:9", answer("n2"))
			mustAdd(t, w.instance, voter("n2", "h:9"))
			mustHearWithin(t, stream, 0, "instance_updated n2")
		},
		"a slow subscriber gets the difference once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.peers.Silence("h:2")
			time.Sleep(5 * time.Second)
			mustAdd(t, w.instance, voter("n3", "h:3"))
			time.Sleep(5 * time.Second)
			mustHear(t, stream, "instance_unreachable n2", "instance_added n3")
			mustHear(t, stream)
		},
		"memberships that were replaced before the next read are delivered in order": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.instance.Change(func(s *ports.LocalState) { // at once: the watch does not look in between
				first, second, third, fourth := voter("n1", "h:1"), voter("n2", "h:2"), voter("n3", "h:3"), voter("n4", "h:4")
				for _, members := range [][]domain.Instance{
					{first, second, third}, {first, second, third, fourth}, {first, second, fourth}, {first, second},
				} {
					s.Roster = domain.NewRoster(members...)
					s.Committed = append(slices.Clone(s.Committed), ports.CommittedRoster{
						Index: uint64(len(s.Committed)) + 1, Roster: s.Roster,
					})
				}
			})
			mustHearWithin(t, stream, 0, "instance_added n3", "instance_added n4", "instance_removed n3", "instance_removed n4")
		},
		"a membership that is not committed is not delivered": func(t *testing.T, w watched, stream ports.ClusterStream) {
			committed, _ := w.instance.State()
			w.instance.Change(func(s *ports.LocalState) { s.Roster = domain.NewRoster(voter("n1", "h:1")) })
			time.Sleep(5 * time.Second)
			mustHear(t, stream)
			w.instance.Change(func(s *ports.LocalState) { s.Roster = committed.Roster })
			time.Sleep(5 * time.Second)
			mustHear(t, stream)
		},
		"a membership that is replayed from the log is not delivered": func(t *testing.T, w watched, stream ports.ClusterStream) {
			now, _ := w.instance.State()
			w.instance.Change(func(s *ports.LocalState) { s.CaughtUp = false })
			time.Sleep(2 * time.Second) // it looked
			w.instance.Change(func(s *ports.LocalState) {
				last := uint64(len(s.Committed))
				s.Committed = append(slices.Clone(s.Committed),
					ports.CommittedRoster{Index: last + 1, Roster: domain.NewRoster(voter("n1", "h:1"))},
					ports.CommittedRoster{Index: last + 2, Roster: now.Roster})
				s.Applied, s.CaughtUp = last+2, true
			})
			time.Sleep(2 * time.Second)
			mustHear(t, stream)
		},
		"a membership that was replaced is told even if none was committed since the start": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.instance.Change(func(s *ports.LocalState) { s.Committed, s.Applied, s.CaughtUp = nil, 10, true })
			time.Sleep(2 * time.Second) // it looked
			now, _ := w.instance.State()
			with := domain.NewRoster(append(now.Roster.Instances(), voter("n3", "h:3"))...)
			w.instance.Change(func(s *ports.LocalState) {
				s.Committed = []ports.CommittedRoster{{Index: 11, Roster: with}, {Index: 12, Roster: now.Roster}}
			})
			mustHearWithin(t, stream, 0, "instance_added n3", "instance_removed n3")
		},
		"a later subscriber gets a new cluster id": func(t *testing.T, w watched, _ ports.ClusterStream) {
			w.peers.Silence("h:2") // which may not change with the id
			time.Sleep(2 * time.Second)
			w.instance.Change(func(s *ports.LocalState) { s.ClusterID = "c2" })
			delivery, _, err := w.follow(t).Next()
			if err != nil || delivery.Snapshot.ID != "c2" {
				t.Errorf("snapshot = %+v, %v, want cluster id c2", delivery.Snapshot, err)
			}
		},
		"every subscriber gets the event": func(t *testing.T, w watched, stream ports.ClusterStream) {
			other := w.follow(t)
			mustHear(t, other, "snapshot", "n1", "n2")
			mustAdd(t, w.instance, voter("n3", "h:3"))
			mustHearWithin(t, stream, 0, "instance_added n3")
			mustHearWithin(t, other, 0, "instance_added n3")
		},
		"a new term of the same leader is delivered at once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.instance.Change(func(s *ports.LocalState) { s.Term++ })
			mustHearWithin(t, stream, 0, "leader_changed n1")
		},
		"another leader ends it at once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			if err := w.instance.HandOver(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			mustHearWithin(t, stream, 0, notLeader)
		},
		"the end of the instance ends it at once": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.instance.Change(func(s *ports.LocalState) { s.Closed = true })
			mustHearWithin(t, stream, 0, closed)
		},
		"the end of the watch ends it": func(t *testing.T, w watched, stream ports.ClusterStream) {
			w.close(t)
			mustHear(t, stream, closed)
		},
		"a change of the registry delivers nothing": func(t *testing.T, w watched, stream ports.ClusterStream) {
			before := w.peers.Asked("h:2")
			write(t, w.instance, 100)
			synctest.Wait()
			mustHear(t, stream)
			if asked := w.peers.Asked("h:2") - before; asked != 0 {
				t.Errorf("requests to n2 = %d, want none", asked)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t)
				defer w.close(t)
				stream := w.follow(t)
				mustHear(t, stream, "snapshot", "n1", "n2")
				mustHear(t, stream)
				test(t, w, stream)
			})
		})
	}
}

func TestClusterStreamWakesAWaitingSubscriber(t *testing.T) {
	for what, happens := range map[string]func(t *testing.T, w watched){
		"a new instance": func(t *testing.T, w watched) { mustAdd(t, w.instance, voter("n3", "h:3")) },
		"a new term":     func(_ *testing.T, w watched) { w.instance.Change(func(s *ports.LocalState) { s.Term++ }) },
		"a new leader": func(t *testing.T, w watched) {
			if err := w.instance.HandOver(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		},
		"the end of the instance": func(_ *testing.T, w watched) {
			w.instance.Change(func(s *ports.LocalState) { s.Closed = true })
		},
		"the end of the watch": func(t *testing.T, w watched) { w.close(t) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t)
				defer w.close(t)
				stream := w.follow(t)
				mustHear(t, stream, "snapshot", "n1", "n2")
				_, later := news(stream)
				synctest.Wait()
				if isClosed(later) {
					t.Error("a waiting subscriber was woken although nothing happened")
				}
				happens(t, w)
				synctest.Wait()
				if !isClosed(later) {
					t.Error("a waiting subscriber was not woken")
				}
			})
		})
	}
}

func TestTheWatchAsksOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		defer w.close(t)
		if asked := w.peers.Asked("h:2"); asked != 1 {
			t.Errorf("requests in the beginning = %d, want 1", asked)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if asked := w.peers.Asked("h:2"); asked != 6 {
			t.Errorf("requests in 5 s = %d, want 6", asked)
		}
	})
}

// Whoever follows the cluster here, and not at the leader, is told as soon.
func TestTheWatchOfAFollowerAsksAsOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := following(t)
		defer w.close(t)
		pass(5 * time.Second)
		if asked := w.peers.Asked("h:2"); asked != 6 {
			t.Errorf("requests in 5 s = %d, want 6", asked)
		}
		if _, err := w.Follow(t.Context(), ports.Leader); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("Follow: error = %v, want %v", err, ports.ErrNotLeader)
		}
	})
}

func TestFollowFailsWhenLeadershipWasJustLost(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	c := app.NewCluster(app.ClusterConfig{
		Inquiry:    app.Inquiry{Self: ports.Identity{RaftID: "n1"}, Local: fixedLocal{LeaderID: "n2"}, Peers: portstest.NewPeers()},
		Membership: i,
	})
	if _, err := c.Follow(t.Context(), ports.Leader); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Follow: error = %v, want %v", err, ports.ErrNotLeader)
	}
}

func TestCloseWithoutOpen(t *testing.T) {
	c := newCluster(portstest.NewInstance("n1", "h:1"), portstest.NewPeers())
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// slowPeers answers in the name of n2, after some time that a test can change.
type slowPeers struct {
	ports.Peers
	mu    sync.Mutex
	after time.Duration
	asked int
}

func (p *slowPeers) take(after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = after
}

func (p *slowPeers) Identify(ctx context.Context, _ string) (ports.Identity, error) {
	p.mu.Lock()
	p.asked++
	after := p.after
	p.mu.Unlock()
	select {
	case <-time.After(after):
		return answer("n2"), nil
	case <-ctx.Done():
		return ports.Identity{}, ctx.Err()
	}
}

func TestASubscriberThatGivesUpDoesNotAffectOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, peers := portstest.NewInstance("n1", "h:1"), &slowPeers{}
		mustAdd(t, i, voter("n2", "h:2"))
		c := newCluster(i, peers)
		stream, err := c.Follow(t.Context(), ports.Leader)
		if err != nil {
			t.Fatal(err)
		}
		mustHear(t, stream, "snapshot", "n1", "n2")

		peers.take(500 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Follow(ctx, ports.Leader); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error of a caller that gave up = %v, want its deadline", err)
		}
		mustHear(t, stream)
	})
}

func TestClosingDuringARoundDeliversNoChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, peers := portstest.NewInstance("n1", "h:1"), &slowPeers{}
		mustAdd(t, i, voter("n2", "h:2"))
		c := newCluster(i, peers)
		if err := c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream, err := c.Follow(t.Context(), ports.Leader)
		if err != nil {
			t.Fatal(err)
		}
		mustHear(t, stream, "snapshot", "n1", "n2")
		peers.take(500 * time.Millisecond)
		time.Sleep(1100 * time.Millisecond) // a round is under way
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustHear(t, stream, ports.ErrClosed.Error())
	})
}

func TestManySubscribersShareARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, peers := portstest.NewInstance("n1", "h:1"), &slowPeers{after: time.Hour}
		mustAdd(t, i, voter("n2", "h:2"))
		c := newCluster(i, peers)
		began := time.Now()
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				stream, err := c.Follow(t.Context(), ports.Leader)
				if err != nil {
					t.Errorf("follow: %v", err)
					return
				}
				if told, _ := news(stream); !reflect.DeepEqual(told, []string{"snapshot", "n1"}) {
					t.Errorf("stream delivered %q, want a snapshot with n1", told)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > 2*time.Second || peers.asked > 2 {
			t.Errorf("%d rounds in %v, want at most 2 in 2 s", peers.asked, took)
		}
	})
}

// Who shares a round must see what was so when he came: a round that had begun
// before is not enough.
func TestASubscriberSeesTheMembersAtItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, peers := portstest.NewInstance("n1", "h:1"), &slowPeers{after: 500 * time.Millisecond}
		mustAdd(t, i, voter("n2", "h:2"))
		c := newCluster(i, peers)
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := c.Follow(t.Context(), ports.Leader); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // the first round has begun
		mustAdd(t, i, voter("n3", "h:2b"))
		stream, err := c.Follow(t.Context(), ports.Leader)
		if err != nil {
			t.Fatal(err)
		}
		delivery, _, err := stream.Next()
		if err != nil || delivery.Snapshot == nil || len(delivery.Snapshot.Members) != 3 {
			t.Errorf("snapshot = %+v, %v, want 3 members", delivery.Snapshot, err)
		}
		first.Wait()
	})
}
