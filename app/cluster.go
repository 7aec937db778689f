package app

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// successorTimeout bounds the wait for a leader that has taken over already: it
// only has to tell.
const successorTimeout = time.Second

// ClusterConfig is what the use cases over the raft cluster need. All but WatchInterval
// must be given.
type ClusterConfig struct {
	Inquiry
	Membership  ports.Membership
	Promotions  ports.Promotions
	ReadIndexer ports.ReadIndexer
	// Logger is told of promotions, and of voters that have come back without what they
	// had acknowledged.
	Logger *slog.Logger

	// WatchInterval is how often this instance asks the others whether they
	// answer, for those who follow the cluster through it; zero means 1 s.
	WatchInterval time.Duration
}

// Cluster implements ports.Cluster. Between Open and Close it keeps
// an eye on the other instances, promotes those who have caught up, and makes nonvoters
// of voters that have come back without what they had acknowledged.
type Cluster struct {
	ClusterConfig
	watch clusterWatch

	// turn holds a token while the membership is changed, or who is to be promoted.
	turn chan struct{}

	// blank has voters that are in quarantine: see readmit.
	blank chan domain.Instance
}

// NewCluster gives the use cases over the raft cluster. It starts nothing.
func NewCluster(config ClusterConfig) *Cluster {
	config.WatchInterval = cmp.Or(config.WatchInterval, time.Second)
	c := &Cluster{ClusterConfig: config}
	c.watch.asking = make(chan struct{}, 1)
	c.watch.later = make(chan struct{})
	c.watch.latest = &clusterState{}
	c.turn = make(chan struct{}, 1)
	c.blank = make(chan domain.Instance, 1)
	return c
}

// HandOver implements ports.Cluster: it gives the id of the instance that took over,
// so that those whose requests are in flight are sent there instead of away; it is
// empty where that is not known within a second.
func (c *Cluster) HandOver(ctx context.Context, to string) (string, error) {
	if to == c.Self.RaftID {
		// It leads already, if it does: as linearizable as anything else.
		_, err := c.Membership.Roster(ctx)
		return to, err
	}
	if state, _ := c.Local.State(); to == "" && state.Leading && state.Roster.Voters() == 1 {
		return "", fmt.Errorf("%w: there is no other to hand over to", domain.ErrLastVoter)
	}
	if err := c.Membership.HandOver(ctx, to); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, successorTimeout)
	defer cancel()
	for {
		state, later := c.Local.State()
		if state.LeaderID != "" && state.LeaderID != c.Self.RaftID {
			return state.LeaderID, nil
		}
		select {
		case <-later:
		case <-ctx.Done():
			return "", nil
		}
	}
}

// Describe implements ports.Cluster.
func (c *Cluster) Describe(ctx context.Context, source ports.Source) (domain.Cluster, error) {
	roster, err := c.roster(ctx, source)
	if err != nil {
		return domain.Cluster{}, err
	}
	state, _ := c.Local.State()
	if source == ports.Leader && !state.Leading {
		return domain.Cluster{}, ports.ErrNotLeader
	}
	return c.describe(ctx, state, roster), nil
}

func (c *Cluster) roster(ctx context.Context, source ports.Source) (domain.Roster, error) {
	switch source {
	case ports.Leader:
		return c.Membership.Roster(ctx)
	case ports.Here:
		return c.Membership.RosterHere(ctx)
	}
	state, _ := c.Local.State()
	if state.Closed {
		return domain.Roster{}, ports.ErrClosed
	}
	return state.Roster, nil
}

// describe asks all instances of roster side by side, so it takes no longer
// than the slowest answer, and never longer than askTimeout.
func (c *Cluster) describe(ctx context.Context, state ports.LocalState, roster domain.Roster) domain.Cluster {
	instances := roster.Instances()
	members := make([]domain.Member, len(instances))
	var asked sync.WaitGroup
	for i, instance := range instances {
		asked.Go(func() { members[i] = c.ask(ctx, instance) })
	}
	asked.Wait()
	return domain.Cluster{ID: state.ClusterID, LeaderID: state.LeaderID, Term: state.Term, Members: members}
}

func (c *Cluster) ask(ctx context.Context, instance domain.Instance) domain.Member {
	member := domain.Member{Instance: instance}
	identity := c.Identity()
	if instance.ID != c.Self.RaftID {
		var err error
		if identity, err = c.hearFrom(ctx, instance.ID, instance.RaftAddress); err != nil {
			return member
		}
		if instance.Suffrage == domain.Voter && identity.Quarantined {
			c.noticeBlank(instance)
		}
	}
	member.Reachable = true
	member.ApplicationAddress = identity.ApplicationAddress
	member.Version = identity.Version
	return member
}
