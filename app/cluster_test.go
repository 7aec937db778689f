package app_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func TestIdentityNamesTheClusterOnceItIsKnown(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	c := newCluster(i, portstest.NewPeers())
	want := ports.Identity{RaftID: "n1", ApplicationAddress: "app1:80", ClusterID: "cluster-of-n1", Version: "v1", Process: "P0"}
	if got := c.Identity(); got != want {
		t.Errorf("Identity = %+v, want %+v", got, want)
	}
	i.Change(func(s *ports.LocalState) { s.Quarantine = "it has lost its log" })
	if want.Quarantined = true; c.Identity() != want {
		t.Errorf("Identity in quarantine = %+v, want %+v", c.Identity(), want)
	}
	i.Change(func(s *ports.LocalState) { s.ClusterID = "" })
	if got := c.Identity().ClusterID; got != "" {
		t.Errorf("ClusterID before the instance knows its cluster = %q, want none", got)
	}
}

func TestRemove(t *testing.T) {
	tests := map[string]struct {
		members []domain.Instance // beside n1, which leads
		remove  string
		want    domain.Instance
		err     error
		left    int
		leading bool
	}{
		"an instance is removed, and given as it was": {
			members: []domain.Instance{voter("n2", "h:2")}, remove: "n2", want: voter("n2", "h:2"), left: 1, leading: true},
		"an unknown instance is no such instance": {
			members: []domain.Instance{voter("n2", "h:2")}, remove: "n3", err: domain.ErrNoSuchInstance, left: 2, leading: true},
		"the last voter stays": {
			members: []domain.Instance{{ID: "n2", RaftAddress: "h:2", Suffrage: domain.Nonvoter}}, remove: "n1", err: domain.ErrLastVoter, left: 2, leading: true},
		"the leader hands over, and its successor is to remove it": {
			members: []domain.Instance{voter("n2", "h:2")}, remove: "n1", err: ports.ErrNotLeader, left: 2, leading: false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i := portstest.NewInstance("n1", "h:1")
			mustAdd(t, i, test.members...)
			got, err := newCluster(i, portstest.NewPeers()).Remove(t.Context(), test.remove)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || got != test.want {
				t.Fatalf("Remove = %+v, %v, want %+v, %v", got, err, test.want, test.err)
			}
			state, _ := i.State()
			if left := len(state.Roster.Instances()); left != test.left {
				t.Errorf("members left = %d, want %d", left, test.left)
			}
			if state.Leading != test.leading {
				t.Errorf("Leading = %v, want %v", state.Leading, test.leading)
			}
		})
	}
}

func TestRemoveAtAFollower(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	i.FailWith(ports.ErrNotLeader)
	if _, err := newCluster(i, portstest.NewPeers()).Remove(t.Context(), "n1"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
	}
}

// handover is an instance whose hand-over of leadership ends as a test says.
type handover struct {
	*portstest.Instance
	err       error
	successor time.Duration // until one is known
	needed    error
}

func (h handover) CanSpare(context.Context, string) error { return h.needed }

func (h handover) HandOver(context.Context, string) error {
	if h.err != nil {
		return h.err
	}
	h.Change(func(s *ports.LocalState) { s.Leading, s.LeaderID, s.LeaderRaftAddress = false, "", "" })
	time.AfterFunc(h.successor, func() {
		h.Change(func(s *ports.LocalState) { s.LeaderID, s.LeaderRaftAddress = "n2", "h:2" })
	})
	return nil
}

func TestRemoveOfTheLeaderWaitsForItsSuccessor(t *testing.T) {
	tests := map[string]struct {
		handover handover
		bound    time.Duration // of the asker
		err      error
		takes    time.Duration
	}{
		"until the successor is known":            {handover{successor: 300 * time.Millisecond}, time.Minute, ports.ErrNotLeader, 300 * time.Millisecond},
		"but no longer than a second":             {handover{successor: 3 * time.Second}, time.Minute, ports.ErrNotLeader, time.Second},
		"and no longer than the caller":           {handover{successor: 3 * time.Second}, 200 * time.Millisecond, ports.ErrNotLeader, 200 * time.Millisecond},
		"and stays if there is no successor":      {handover{err: ports.ErrNoSuccessor}, time.Minute, ports.ErrNoSuccessor, 0},
		"and stays if the majority needs it":      {handover{needed: ports.ErrNoMajorityLeft}, time.Minute, ports.ErrNoMajorityLeft, 0},
		"and gives the reason of another failure": {handover{err: context.DeadlineExceeded}, time.Minute, context.DeadlineExceeded, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := portstest.NewInstance("n1", "h:1")
				mustAdd(t, i, voter("n2", "h:2"))
				test.handover.Instance = i
				c := app.NewCluster(app.ClusterConfig{
					Inquiry:    app.Inquiry{Self: ports.Identity{RaftID: "n1"}, Local: i, Peers: portstest.NewPeers()},
					Membership: test.handover,
					Leadership: test.handover,
				})
				ctx, cancel := context.WithTimeout(t.Context(), test.bound)
				defer cancel()
				began := time.Now()
				if _, err := c.Remove(ctx, "n1"); !errors.Is(err, test.err) {
					t.Errorf("error = %v, want %v", err, test.err)
				}
				if took := time.Since(began); took != test.takes {
					t.Errorf("Remove took %v, want %v", took, test.takes)
				}
				state, _ := i.State()
				if _, isMember := state.Roster.Find("n1"); !isMember {
					t.Error("the leader removed itself, want it to leave that to its successor")
				}
				if stays := test.handover.err != nil || test.handover.needed != nil; stays != state.Leading {
					t.Errorf("Leading = %v, want %v", state.Leading, stays)
				}
				time.Sleep(test.handover.successor) // lets the successor come within the bubble
			})
		})
	}
}

func TestHandOverNamesTheSuccessor(t *testing.T) {
	for name, test := range map[string]struct {
		handover handover
		want     string
		err      error
	}{
		"once it is known":               {handover: handover{successor: 300 * time.Millisecond}, want: "n2"},
		"unless that takes too long":     {handover: handover{successor: 3 * time.Second}},
		"and no one where there is none": {handover: handover{err: ports.ErrNotLeader}, err: ports.ErrNotLeader},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.handover.Instance = portstest.NewInstance("n1", "h:1")
				mustAdd(t, test.handover.Instance, voter("n2", "h:2"))
				c := app.NewCluster(app.ClusterConfig{
					Inquiry:    app.Inquiry{Self: ports.Identity{RaftID: "n1"}, Local: test.handover.Instance},
					Membership: test.handover,
					Leadership: test.handover,
				})
				if got, err := c.HandOver(t.Context(), ""); got != test.want || !errors.Is(err, test.err) {
					t.Errorf("HandOver = %q, %v, want %q, %v", got, err, test.want, test.err)
				}
				time.Sleep(test.handover.successor) // lets the successor come within the bubble
			})
		})
	}
}

func TestDescribe(t *testing.T) {
	self := domain.Member{Instance: voter("n1", "h:1"), Reachable: true, ApplicationAddress: "app1:80", Version: "v1"}
	n2 := voter("n2", "h:2")
	nonvoter := domain.Instance{ID: "n2", RaftAddress: "h:2", Suffrage: domain.Nonvoter}
	but := func(change func(*ports.Identity)) *ports.Identity {
		identity := answer("n2")
		change(&identity)
		return &identity
	}
	tests := map[string]struct {
		other   domain.Instance
		answers *ports.Identity
		want    domain.Member
	}{
		"an instance that answers":             {n2, but(func(*ports.Identity) {}), answered(n2)},
		"a nonvoter that answers":              {nonvoter, but(func(*ports.Identity) {}), answered(nonvoter)},
		"an instance that does not answer":     {n2, nil, domain.Member{Instance: n2}},
		"another instance at its address":      {n2, but(func(i *ports.Identity) { i.RaftID = "n9" }), domain.Member{Instance: n2}},
		"an instance of another cluster":       {n2, but(func(i *ports.Identity) { i.ClusterID = "other" }), domain.Member{Instance: n2}},
		"an instance without a cluster so far": {n2, but(func(i *ports.Identity) { i.ClusterID = "" }), answered(n2)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
			mustAdd(t, i, test.other)
			if test.answers != nil {
				peers.Answer("h:2", *test.answers)
			}
			got, err := newCluster(i, peers).Describe(t.Context(), ports.Leader)
			want := domain.Cluster{ID: "cluster-of-n1", LeaderID: "n1", Term: 1, Members: []domain.Member{self, test.want}}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("Describe = %+v, %v\nwant %+v", got, err, want)
			}
			if peers.Asked("h:1") != 0 {
				t.Error("the leader asked itself over the network")
			}
		})
	}
}

func TestDescribeAsksConcurrentlyForAtMostASecond(t *testing.T) {
	answersAfter := map[string]time.Duration{"h:2": 700 * time.Millisecond, "h:3": 900 * time.Millisecond, "h:4": time.Hour}
	ids := map[string]string{"h:2": "n2", "h:3": "n3", "h:4": "n4"}
	peers := peersFunc(func(ctx context.Context, raftAddress string) (ports.Identity, error) {
		select {
		case <-time.After(answersAfter[raftAddress]):
			return answer(ids[raftAddress]), nil
		case <-ctx.Done():
			return ports.Identity{}, ctx.Err()
		}
	})
	synctest.Test(t, func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		mustAdd(t, i, voter("n2", "h:2"), voter("n3", "h:3"), voter("n4", "h:4"))
		began := time.Now()
		got, err := newCluster(i, peers).Describe(t.Context(), ports.Leader)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("Describe took %v, want %v", took, time.Second)
		}
		var reachable []bool
		for _, m := range got.Members {
			reachable = append(reachable, m.Reachable)
		}
		if want := []bool{true, true, true, false}; !reflect.DeepEqual(reachable, want) {
			t.Errorf("reachable = %v, want %v", reachable, want)
		}
	})
}

func TestDescribeWithoutLeadership(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	peers := portstest.NewPeers()
	c := newCluster(i, peers)
	i.FailWith(ports.ErrNotLeader)
	if _, err := c.Describe(t.Context(), ports.Leader); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error where the membership cannot be read = %v, want %v", err, ports.ErrNotLeader)
	}
	i.FailWith(nil)
	lost := app.NewCluster(app.ClusterConfig{
		Inquiry:    app.Inquiry{Self: ports.Identity{RaftID: "n1"}, Local: fixedLocal{LeaderID: "n2"}, Peers: peers},
		Membership: i,
	})
	if _, err := lost.Describe(t.Context(), ports.Leader); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error where leadership is lost after the membership was read = %v, want %v", err, ports.ErrNotLeader)
	}
}
