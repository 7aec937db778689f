// Package portstest has in-memory fakes of the ports, for tests of what stands
// on either side of them, and one suite for each port that has promises to keep:
// the fake and the real adapter pass the same one.
package portstest

import (
	"context"
	"sync"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Instance is a whole instance without raft: ports.Registry, ports.Local and
// ports.Membership over one domain.Registry in memory. It begins as the leader
// of a cluster of its own. Safe for concurrent use.
type Instance struct {
	mu       sync.Mutex
	registry *domain.Registry
	state    ports.LocalState
	later    chan struct{}
	failure  error
}

// NewInstance gives an instance that leads a cluster of one, in term 1.
func NewInstance(id, raftAddress string) *Instance {
	return &Instance{
		registry: domain.NewRegistry(),
		later:    make(chan struct{}),
		state: ports.LocalState{
			Roster:            domain.NewRoster(domain.Instance{ID: id, RaftAddress: raftAddress, Suffrage: domain.Voter}),
			ClusterID:         "cluster-of-" + id,
			Term:              1,
			Leading:           true,
			LeaderID:          id,
			LeaderRaftAddress: raftAddress,
			Member:            true,
			CaughtUp:          true,
		},
	}
}

// Change lets a test set the state that the instance is in; followers of the
// state are woken.
func (i *Instance) Change(change func(*ports.LocalState)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(&i.state)
	i.wake()
}

// FailWith makes every question that needs a leader answer err; nil ends that.
func (i *Instance) FailWith(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failure = err
}

func (i *Instance) wake() {
	i.state.View = i.registry.View()
	close(i.later)
	i.later = make(chan struct{})
}

func (i *Instance) refusal(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case i.failure != nil:
		return i.failure
	case i.state.Closed:
		return ports.ErrClosed
	case !i.state.Leading:
		return ports.ErrNotLeader
	}
	return nil
}

// Propose implements ports.Registry.
func (i *Instance) Propose(ctx context.Context, cmd domain.Command) (domain.Change, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return domain.Change{}, err
	}
	change, err := i.registry.Apply(cmd)
	i.wake()
	return change, err
}

// Read implements ports.Registry.
func (i *Instance) Read(ctx context.Context) (domain.View, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return domain.View{}, err
	}
	return i.registry.View(), nil
}

// State implements ports.Local.
func (i *Instance) State() (ports.LocalState, <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state, i.later
}

// Roster implements ports.Membership.
func (i *Instance) Roster(ctx context.Context) (domain.Roster, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return domain.Roster{}, err
	}
	return i.state.Roster, nil
}

// Add implements ports.Membership.
func (i *Instance) Add(ctx context.Context, instance domain.Instance) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return err
	}
	if _, err := i.state.Roster.Join(instance); err != nil {
		return err
	}
	i.setRoster(instance.ID, &instance)
	return nil
}

// Remove implements ports.Membership.
func (i *Instance) Remove(ctx context.Context, id string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return err
	}
	if err := i.state.Roster.Leave(id); err != nil {
		return err
	}
	i.setRoster(id, nil)
	return nil
}

func (i *Instance) setRoster(id string, wanted *domain.Instance) {
	var instances []domain.Instance
	for _, other := range i.state.Roster.Instances() {
		if other.ID != id {
			instances = append(instances, other)
		}
	}
	if wanted != nil {
		instances = append(instances, *wanted)
	}
	i.state.Roster = domain.NewRoster(instances...)
	i.wake()
}

// HandOver implements ports.Membership: the first other voter leads from now on.
func (i *Instance) HandOver(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return err
	}
	for _, other := range i.state.Roster.Instances() {
		if other.ID != i.state.LeaderID && other.Suffrage == domain.Voter {
			i.state.Leading = false
			i.state.Term++
			i.state.LeaderID, i.state.LeaderRaftAddress = other.ID, other.RaftAddress
			i.wake()
			return nil
		}
	}
	return ports.ErrNoSuccessor
}
