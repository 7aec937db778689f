package app_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// Another cluster adds the same instance, which has no cluster when it is first asked.
func TestAnAdditionIsTakenBackIfAnotherClusterWasFirst(t *testing.T) {
	elsewhere := ports.Identity{RaftID: "n3", ClusterID: "cluster-of-n9"}
	here := far("n3", 100)
	tests := map[string]struct {
		wanted  domain.Instance
		becomes ports.Identity // after so many questions
		after   int64
		want    domain.Instance // zero: no member
		err     error
	}{
		"of a nonvoter":                         {wanted: nonvoter("n3", "h:3"), becomes: elsewhere, after: 1, err: domain.ErrOtherCluster},
		"of a voter":                            {wanted: voter("n3", "h:3"), becomes: elsewhere, after: 1, err: domain.ErrOtherCluster},
		"of a voter that joins elsewhere later": {wanted: voter("n3", "h:3"), becomes: elsewhere, after: 20, err: domain.ErrOtherCluster},
		"not if another instance answers":       {wanted: voter("n3", "h:3"), becomes: ports.Identity{RaftID: "n4", ClusterID: "cluster-of-n9"}, after: 1, want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown},
		"not of a voter that joins here":        {wanted: voter("n3", "h:3"), becomes: here, after: 5, want: voter("n3", "h:3")},
		"not of a nonvoter that joins here":     {wanted: nonvoter("n3", "h:3"), becomes: here, after: 1, want: nonvoter("n3", "h:3")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				i := portstest.NewInstance("n1", "h:1")
				i.Change(func(s *ports.LocalState) { s.Applied = 100 })
				c := newCluster(i, peersFunc(func(context.Context, string) (ports.Identity, error) {
					if asked.Add(1) <= test.after {
						return ports.Identity{RaftID: "n3"}, nil
					}
					return test.becomes, nil
				}))
				if err := c.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close(context.WithoutCancel(t.Context())) }()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, err := c.Add(ctx, test.wanted, false); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("error = %v, want %v", err, test.err)
				}
				state, _ := i.State()
				if got, _ := state.Roster.Find("n3"); got != test.want {
					t.Errorf("n3 in the membership = %+v, want %+v", got, test.want)
				}
				if test.err == domain.ErrOtherCluster && len(state.Promotions) > 0 {
					t.Errorf("promotions = %q, want none", state.Promotions)
				}
			})
		})
	}
}

// Another request may have moved the instance meanwhile.
func TestAnInstanceThatWasMovedIsNotTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, asked := portstest.NewInstance("n1", "h:1"), 0
		c := newCluster(i, peersFunc(func(ctx context.Context, _ string) (ports.Identity, error) {
			if asked++; asked == 1 {
				return ports.Identity{RaftID: "n3"}, nil
			}
			mustAdd(t, i, nonvoter("n3", "h:4"))
			return ports.Identity{RaftID: "n3", ClusterID: "cluster-of-n9"}, nil
		}))
		if _, err := c.Add(t.Context(), nonvoter("n3", "h:3"), false); !errors.Is(err, domain.ErrOtherCluster) {
			t.Errorf("error = %v, want %v", err, domain.ErrOtherCluster)
		}
		state, _ := i.State()
		if got, _ := state.Roster.Find("n3"); got != nonvoter("n3", "h:4") {
			t.Errorf("n3 in the membership = %+v, want it at h:4 as moved", got)
		}
	})
}

// The operator decides about an instance that was a member before.
func TestAMemberIsNotTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPromoting(t)
		defer p.close(t)
		mustAdd(t, p.instance, nonvoter("n3", "h:3"))
		p.peers.Answer("h:3", ports.Identity{RaftID: "n3"})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		time.AfterFunc(time.Second, func() { p.peers.Answer("h:3", ports.Identity{RaftID: "n3", ClusterID: "cluster-of-n9"}) })
		if _, err := p.Add(ctx, voter("n3", "h:3"), false); !errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("error = %v, want %v", err, ports.ErrOutcomeUnknown)
		}
		p.mustHave(t, nonvoter("n3", "h:3"))
	})
}

// Another instance may lead by then.
func TestAnAdditionThatCantBeTakenBackSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPromoting(t)
		defer p.close(t)
		p.peers.Answer("h:3", ports.Identity{RaftID: "n3"})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		time.AfterFunc(time.Second, func() {
			p.peers.Answer("h:3", ports.Identity{RaftID: "n3", ClusterID: "cluster-of-n9"})
			p.instance.FailWith(ports.ErrBusy)
		})
		_, err := p.Add(ctx, voter("n3", "h:3"), false)
		if !errors.Is(err, domain.ErrOtherCluster) || errors.Is(err, ports.ErrBusy) || !strings.Contains(err.Error(), "could not be removed") {
			t.Errorf("error = %v, want the other cluster and that n3 could not be removed", err)
		}
		p.mustHave(t, nonvoter("n3", "h:3"))
	})
}
