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

// successorTimeout bounds the wait to hear from the new leader, which has taken over
// already.
const successorTimeout = time.Second

// ClusterConfig is what the use cases over the raft cluster need. All fields but
// WatchInterval must be set.
type ClusterConfig struct {
	Inquiry
	Membership  ports.Membership
	Leadership  ports.Leadership
	Promotions  ports.Promotions
	ReadIndexer ports.ReadIndexer
	// Logger logs promotions, and voters that have come back without what they had
	// acknowledged.
	Logger *slog.Logger

	// WatchInterval is how often this instance asks the others about themselves, for
	// those who follow the cluster; zero means 1 s.
	WatchInterval time.Duration
}

// Cluster implements ports.Cluster. Between Open and Close it polls the other instances,
// promotes nonvoters that have caught up, and demotes voters that have come back without
// what they had acknowledged.
type Cluster struct {
	ClusterConfig
	watch clusterWatch

	// lock holds a token while the membership or the promotions are changed: see
	// lockMembership.
	lock chan struct{}

	// blankVoters receives voters that are in quarantine: see readmit.
	blankVoters chan domain.Instance
}

// NewCluster returns the use cases over the raft cluster. It starts nothing.
func NewCluster(config ClusterConfig) *Cluster {
	config.WatchInterval = cmp.Or(config.WatchInterval, time.Second)
	c := &Cluster{ClusterConfig: config}
	c.watch.polling = make(chan struct{}, 1)
	c.watch.later = make(chan struct{})
	c.watch.latest = &clusterState{}
	c.lock = make(chan struct{}, 1)
	c.blankVoters = make(chan domain.Instance, 1)
	return c
}

// HandOver implements ports.Cluster. It waits up to successorTimeout to learn who the new
// leader is, so that requests in flight can be redirected there.
func (c *Cluster) HandOver(ctx context.Context, to string) (string, error) {
	if to == c.Self.RaftID {
		// There is nothing to do if it leads, which this read proves.
		_, err := c.Membership.Roster(ctx)
		return to, err
	}
	if state, _ := c.Local.State(); to == "" && state.Leading && state.Roster.Voters() == 1 {
		return "", fmt.Errorf("%w: there is no other to hand over to", domain.ErrLastVoter)
	}
	if err := c.Leadership.HandOver(ctx, to); err != nil {
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

// describe asks all instances of roster concurrently, so it takes as long as the slowest
// answer, and at most askTimeout.
func (c *Cluster) describe(ctx context.Context, state ports.LocalState, roster domain.Roster) domain.Cluster {
	instances := roster.Instances()
	members := make([]domain.Member, len(instances))
	var asked sync.WaitGroup
	for i, instance := range instances {
		asked.Go(func() { members[i] = c.describeMember(ctx, instance) })
	}
	asked.Wait()
	return domain.Cluster{ID: state.ClusterID, LeaderID: state.LeaderID, Term: state.Term, Members: members}
}

func (c *Cluster) describeMember(ctx context.Context, instance domain.Instance) domain.Member {
	member := domain.Member{Instance: instance}
	identity := c.Identity()
	if instance.ID != c.Self.RaftID {
		var err error
		if identity, err = c.identifyMember(ctx, instance.ID, instance.RaftAddress); err != nil {
			return member
		}
		if instance.Suffrage == domain.Voter && identity.Quarantined {
			c.noteBlankVoter(instance)
		}
	}
	member.Reachable = true
	member.ApplicationAddress = identity.ApplicationAddress
	member.Version = identity.Version
	return member
}
