package app_test

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// following gives n1 as a follower of n2, which answers at h:2, with its watch
// open; in a bubble.
func following(t *testing.T) (w watched, leader *portstest.Instance) {
	t.Helper()
	leader = portstest.NewInstance("n2", "h:2")
	w = watched{instance: leader.NewFollower("n1", "h:1"), peers: portstest.NewPeers()}
	w.peers.Answer("h:2", clusterOfN2("n2"))
	w.Cluster = newCluster(w.instance, w.peers)
	if err := w.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return w, leader
}

func clusterOfN2(id string) ports.Identity {
	identity := answer(id)
	identity.ClusterID = "cluster-of-n2"
	return identity
}

func TestClusterFromEachSource(t *testing.T) {
	tests := map[string]struct {
		given               func(*ports.LocalState)
		leader, here, stale error
	}{
		"a follower answers, except as the leader":   {leader: ports.ErrNotLeader},
		"without a leader it answers from its state": {given: leaderless, leader: ports.ErrNotLeader, here: ports.ErrNoLeader},
		"when it is cut off, too":                    {given: cutOff, leader: ports.ErrNotLeader},
		"before it has caught up, too":               {given: starting, leader: ports.ErrNotLeader},
		"a follower that shuts down answers nothing": {given: shut, leader: ports.ErrClosed, here: ports.ErrClosed, stale: ports.ErrClosed},
		"the leader answers from every source":       {given: func(s *ports.LocalState) { s.Leading, s.LeaderID = true, "n1" }},
		"the leader answers even without contact":    {given: func(s *ports.LocalState) { s.Leading = true; cutOff(s) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := following(t)
				defer w.close(t)
				if test.given != nil {
					w.instance.Change(test.given)
				}
				state, _ := w.instance.State()
				self := domain.Member{Instance: voter("n1", "h:1"), Reachable: true, ApplicationAddress: "app1:80", Version: "v1"}
				described := domain.Cluster{
					ID: "cluster-of-n2", LeaderID: state.LeaderID, Term: 1,
					Members: []domain.Member{self, answered(voter("n2", "h:2"))},
				}
				for source, want := range map[ports.Source]error{ports.Leader: test.leader, ports.Here: test.here, ports.Stale: test.stale} {
					cluster, err := w.Describe(t.Context(), source)
					if !errors.Is(err, want) || (err == nil) != (want == nil) {
						t.Errorf("Describe from source %d: error = %v, want %v", source, err, want)
					}
					if err == nil && !reflect.DeepEqual(cluster, described) {
						t.Errorf("Describe from source %d = %+v, want %+v", source, cluster, described)
					}
					stream, err := w.Follow(t.Context(), source)
					if !errors.Is(err, want) || (err == nil) != (want == nil) {
						t.Errorf("Follow from source %d: error = %v, want %v", source, err, want)
						continue
					}
					if err != nil {
						continue
					}
					delivery, later, err := stream.Next()
					if err != nil || delivery.Snapshot == nil || !reflect.DeepEqual(*delivery.Snapshot, described) || later == nil {
						t.Errorf("first delivery from source %d = %+v, %v, want a snapshot of %+v", source, delivery, err, described)
					}
				}
			})
		})
	}
}

func TestClusterStreamOfAFollower(t *testing.T) {
	cut, closed := ports.ErrCutOff.Error(), ports.ErrClosed.Error()
	tests := map[string]func(t *testing.T, w watched, leader *portstest.Instance, stream ports.ClusterStream){ // after its snapshot
		"without a change nothing is delivered": func(t *testing.T, _ watched, _ *portstest.Instance, stream ports.ClusterStream) {
			pass(10 * time.Second)
			mustHear(t, stream)
		},
		"an instance that falls silent is noticed in the next round": func(t *testing.T, w watched, _ *portstest.Instance, stream ports.ClusterStream) {
			w.peers.Silence("h:2")
			mustHearWithin(t, stream, time.Second, "instance_unreachable n2")
		},
		"an added instance is delivered at once": func(t *testing.T, _ watched, leader *portstest.Instance, stream ports.ClusterStream) {
			mustAdd(t, leader, voter("n3", "h:3"))
			mustHearWithin(t, stream, 0, "instance_added n3")
		},
		"it survives winning and losing leadership": func(t *testing.T, w watched, leader *portstest.Instance, stream ports.ClusterStream) {
			mustHandOver(t, leader)
			mustHearWithin(t, stream, 0, "leader_changed n1")
			mustHandOver(t, w.instance)
			mustHearWithin(t, stream, 0, "leader_changed n2")
		},
		"the loss of the leader is delivered at once": func(t *testing.T, w watched, _ *portstest.Instance, stream ports.ClusterStream) {
			w.instance.Change(leaderless)
			mustHearWithin(t, stream, 0, "leader_changed ")
		},
		"it ends at once when contact with the leader is lost": func(t *testing.T, w watched, _ *portstest.Instance, stream ports.ClusterStream) {
			w.instance.Change(cutOff)
			mustHearWithin(t, stream, 0, cut)
			mustHear(t, stream, cut)
		},
		"a waiting subscriber is woken when contact is lost": func(t *testing.T, w watched, _ *portstest.Instance, stream ports.ClusterStream) {
			_, later := news(stream)
			synctest.Wait()
			if isClosed(later) {
				t.Error("a waiting subscriber was woken although nothing happened")
			}
			w.instance.Change(cutOff)
			synctest.Wait()
			if !isClosed(later) {
				t.Error("a waiting subscriber was not woken when contact with the leader was lost")
			}
		},
		"a subscriber without contact gets a snapshot first": func(t *testing.T, w watched, _ *portstest.Instance, _ ports.ClusterStream) {
			w.instance.Change(cutOff)
			for _, source := range elsewhere {
				late, err := w.Follow(t.Context(), source)
				if err != nil {
					t.Fatal(err)
				}
				mustHear(t, late, "snapshot", "n1", "n2")
				mustHear(t, late, cut)
			}
		},
		"the end of the instance ends it at once": func(t *testing.T, w watched, _ *portstest.Instance, stream ports.ClusterStream) {
			w.instance.Change(shut)
			mustHearWithin(t, stream, 0, closed)
		},
		"the end of the watch ends it": func(t *testing.T, w watched, _ *portstest.Instance, stream ports.ClusterStream) {
			w.close(t)
			mustHear(t, stream, closed)
		},
	}
	for name, test := range tests {
		for _, source := range elsewhere {
			t.Run(name+map[ports.Source]string{ports.Here: ", here", ports.Stale: ", stale"}[source], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, leader := following(t)
					defer w.close(t)
					stream, err := w.Follow(t.Context(), source)
					if err != nil {
						t.Fatal(err)
					}
					mustHear(t, stream, "snapshot", "n1", "n2")
					mustHear(t, stream)
					test(t, w, leader, stream)
				})
			})
		}
	}
}

// A stream that is opened during the shutdown must not deliver a snapshot.
func TestClusterStreamOpenedDuringTheShutdownOnlyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := following(t)
		defer w.close(t)
		stream, err := w.Follow(t.Context(), ports.Stale)
		if err != nil {
			t.Fatal(err)
		}
		w.instance.Change(func(s *ports.LocalState) { cutOff(s); shut(s) })
		mustHear(t, stream, ports.ErrClosed.Error())
	})
}
