package app_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// followerOf gives n1 as a follower of n2, which is at h:2, in term 5.
func followerOf(t *testing.T) *portstest.Instance {
	t.Helper()
	i := portstest.NewInstance("n1", "h:1")
	i.Change(func(s *ports.LocalState) {
		s.Leading, s.Term, s.LeaderID, s.LeaderRaftAddress = false, 5, "n2", "h:2"
	})
	return i
}

func mustName(t *testing.T, l *app.LeaderLocator, want string) {
	t.Helper()
	if got, err := l.LeaderAddress(t.Context()); err != nil || got != want {
		t.Fatalf("LeaderAddress = %q, %v, want %q", got, err, want)
	}
}

func mustNotName(t *testing.T, l *app.LeaderLocator) {
	t.Helper()
	got, err := l.LeaderAddress(t.Context())
	if !errors.Is(err, ports.ErrNoLeader) || got != "" {
		t.Fatalf("LeaderAddress = %q, %v, want ErrNoLeader", got, err)
	}
	// These errors would be answered as if the caller's own request were refused.
	for _, other := range []error{domain.ErrUnreachable, domain.ErrIDMismatch, domain.ErrOtherCluster} {
		if errors.Is(err, other) {
			t.Fatalf("error = %q, want one that is not %q", err, other)
		}
	}
}

func TestLeaderAddressIsKeptForASecond(t *testing.T) {
	const addressOfN2, addressOfN3 = "app-of-n2:80", "app-of-n3:80"
	asked := func(t *testing.T, peers *portstest.Peers, raftAddress string, want int) {
		t.Helper()
		if got := peers.Asked(raftAddress); got != want {
			t.Fatalf("requests to %s = %d, want %d", raftAddress, got, want)
		}
	}
	tests := map[string]func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers){
		"an address is kept for a while": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			mustName(t, l, addressOfN2)
			time.Sleep(time.Second - 1)
			mustName(t, l, addressOfN2)
			asked(t, peers, "h:2", 1)
		},
		"the leader is asked again after a second": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			mustName(t, l, addressOfN2)
			other := answer("n2")
			other.ApplicationAddress = "elsewhere:80"
			peers.Answer("h:2", other)
			time.Sleep(time.Second)
			mustName(t, l, "elsewhere:80")
			asked(t, peers, "h:2", 2)
		},
		"a leader that stopped answering is no longer named": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			mustName(t, l, addressOfN2)
			peers.Silence("h:2")
			time.Sleep(time.Second)
			mustNotName(t, l)
		},
		"a new leader is asked at once": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, _ *portstest.Peers) {
			mustName(t, l, addressOfN2)
			i.Change(func(s *ports.LocalState) { s.Term, s.LeaderID, s.LeaderRaftAddress = 6, "n3", "h:3" })
			mustName(t, l, addressOfN3)
		},
		"the same leader is asked at once in a new term": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers) {
			mustName(t, l, addressOfN2)
			i.Change(func(s *ports.LocalState) { s.Term = 6 })
			mustName(t, l, addressOfN2)
			asked(t, peers, "h:2", 2)
		},
		"a leader that moved is asked at once": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers) {
			mustName(t, l, addressOfN2)
			peers.Answer("h:9", answer("n2"))
			i.Change(func(s *ports.LocalState) { s.LeaderRaftAddress = "h:9" })
			mustName(t, l, addressOfN2)
			asked(t, peers, "h:9", 1)
		},
		"a change that does not concern the leader changes nothing": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers) {
			mustName(t, l, addressOfN2)
			i.Change(func(s *ports.LocalState) { s.CaughtUp = false })
			mustName(t, l, addressOfN2)
			asked(t, peers, "h:2", 1)
		},
		"a failure is kept for a moment": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			peers.Silence("h:2")
			mustNotName(t, l)
			peers.Answer("h:2", answer("n2"))
			time.Sleep(200*time.Millisecond - 1)
			mustNotName(t, l)
			asked(t, peers, "h:2", 1)
			time.Sleep(time.Nanosecond)
			mustName(t, l, addressOfN2)
			asked(t, peers, "h:2", 2)
		},
		"a failure of one leader does not count for another": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers) {
			peers.Silence("h:2")
			mustNotName(t, l)
			i.Change(func(s *ports.LocalState) { s.Term, s.LeaderID, s.LeaderRaftAddress = 6, "n3", "h:3" })
			mustName(t, l, addressOfN3)
		},
		"without a leader no instance is asked": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers) {
			i.Change(func(s *ports.LocalState) { s.LeaderID, s.LeaderRaftAddress = "", "" })
			mustNotName(t, l)
			asked(t, peers, "", 0)
		},
		"an instance never names itself": func(t *testing.T, l *app.LeaderLocator, i *portstest.Instance, peers *portstest.Peers) {
			peers.Answer("h:1", answer("n1"))
			i.Change(func(s *ports.LocalState) { s.LeaderID, s.LeaderRaftAddress = "n1", "h:1" })
			mustNotName(t, l)
			asked(t, peers, "h:1", 0)
		},
		"a leader that advertises this instance's address is not named": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			same := answer("n2")
			same.ApplicationAddress = "app1:80"
			peers.Answer("h:2", same)
			mustNotName(t, l)
		},
		"a leader that advertises nothing is not named": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			silent := answer("n2")
			silent.ApplicationAddress = ""
			peers.Answer("h:2", silent)
			mustNotName(t, l)
		},
		"another instance at the leader's address is not named": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			peers.Answer("h:2", answer("n3"))
			mustNotName(t, l)
		},
		"an instance of another cluster is not named": func(t *testing.T, l *app.LeaderLocator, _ *portstest.Instance, peers *portstest.Peers) {
			other := answer("n2")
			other.ClusterID = "other"
			peers.Answer("h:2", other)
			mustNotName(t, l)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, peers := followerOf(t), portstest.NewPeers()
				peers.Answer("h:2", answer("n2"))
				peers.Answer("h:3", answer("n3"))
				test(t, app.NewLeaderLocator(inquiryOf(i, peers)), i, peers)
			})
		})
	}
}

// slowLeader answers after a given time, and counts the requests.
type slowLeader struct {
	ports.Peers
	after time.Duration
	mu    sync.Mutex
	asked int
}

func (l *slowLeader) Identify(ctx context.Context, _ string) (ports.Identity, error) {
	l.mu.Lock()
	l.asked++
	l.mu.Unlock()
	select {
	case <-time.After(l.after):
		return answer("n2"), nil
	case <-ctx.Done():
		return ports.Identity{}, ctx.Err()
	}
}

func TestLeaderAddressSharesOneRequest(t *testing.T) {
	for name, after := range map[string]time.Duration{"where there is an answer": 500 * time.Millisecond, "where there is none": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := &slowLeader{after: after}
				l := app.NewLeaderLocator(inquiryOf(followerOf(t), peer))
				began := time.Now()
				var asking sync.WaitGroup
				for range 50 {
					asking.Go(func() {
						got, err := l.LeaderAddress(t.Context())
						switch {
						case after < time.Second && (err != nil || got != "app-of-n2:80"):
							t.Errorf("LeaderAddress = %q, %v, want app-of-n2:80", got, err)
						case after > time.Second && !errors.Is(err, ports.ErrNoLeader):
							t.Errorf("LeaderAddress = %q, %v, want ErrNoLeader", got, err)
						}
					})
				}
				asking.Wait()
				if took, want := time.Since(began), min(after, 700*time.Millisecond); took != want || peer.asked != 1 {
					t.Errorf("LeaderAddress took %v and %d requests, want %v and 1", took, peer.asked, want)
				}
			})
		})
	}
}

func TestLeaderAddressWhenACallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := &slowLeader{after: 500 * time.Millisecond}
		l := app.NewLeaderLocator(inquiryOf(followerOf(t), peer))
		hurried := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := l.LeaderAddress(ctx)
			return err
		}
		if err := hurried(); !errors.Is(err, ports.ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error of a caller without time = %v, want ErrNoLeader because of the deadline", err)
		}
		mustName(t, l, "app-of-n2:80") // and no failure was kept
		if peer.asked != 2 {
			t.Errorf("requests = %d, want 2", peer.asked)
		}

		time.Sleep(time.Second) // the answer no longer holds
		var asking sync.WaitGroup
		asking.Go(func() { mustNameIn(t, l) })
		synctest.Wait()
		began := time.Now()
		if err := hurried(); !errors.Is(err, ports.ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error of a caller that waited for another's request = %v, want ErrNoLeader because of the deadline", err)
		}
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("the caller waited for %v, want 100ms", took)
		}
		asking.Wait()
		if peer.asked != 3 {
			t.Errorf("requests = %d, want 3", peer.asked)
		}
	})
}

// A caller that waits for another's request, and then finds a new leader that
// does not answer either, is refused within the second that is promised.
func TestLeaderAddressIsRefusedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := followerOf(t)
		peer := &slowLeader{after: time.Hour}
		l := app.NewLeaderLocator(inquiryOf(i, peer))
		var asking sync.WaitGroup
		refused := func() {
			if got, err := l.LeaderAddress(t.Context()); !errors.Is(err, ports.ErrNoLeader) {
				t.Errorf("LeaderAddress = %q, %v, want ErrNoLeader", got, err)
			}
		}
		asking.Go(refused)
		time.Sleep(100 * time.Millisecond)
		asking.Go(func() {
			began := time.Now()
			refused()
			if took := time.Since(began); took >= time.Second || peer.asked != 2 {
				t.Errorf("LeaderAddress took %v and %d requests, want less than a second and 2", took, peer.asked)
			}
		})
		synctest.Wait()
		i.Change(func(s *ports.LocalState) { s.LeaderID, s.LeaderRaftAddress = "n3", "h:3" })
		asking.Wait()
	})
}

func mustNameIn(t *testing.T, l *app.LeaderLocator) {
	if got, err := l.LeaderAddress(t.Context()); err != nil || got != "app-of-n2:80" {
		t.Errorf("LeaderAddress = %q, %v, want app-of-n2:80", got, err)
	}
}
