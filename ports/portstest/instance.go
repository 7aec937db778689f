// Package portstest has in-memory fakes of the ports, for tests of the code on either
// side of them, and one contract suite for each of Registry, Local, Membership,
// Promotions, Formats and Restorer, which the fake and the real adapter both pass.
// Peers and ReadIndexer have fakes, but no suite.
package portstest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Instance is a whole instance without raft. It implements ports.Registry, ports.Local,
// ports.Membership, ports.Leadership, ports.Promotions, ports.Formats, ports.Restorer and
// ports.ReadIndexer over one domain.Registry in memory. Safe for concurrent use.
type Instance struct {
	*cluster
	id      string
	state   ports.LocalState
	later   chan struct{}
	contact time.Duration
	failure error

	format  int            // the format that this instance reads
	needs   func(any) int  // the format that a command needs
	formats map[string]int // the formats that other instances reported
	written int            // the latest format that a command needed
}

// cluster is what the instances of one cluster share. Its lock also guards the instances,
// because an action of one of them takes effect on all at once.
type cluster struct {
	mu        sync.Mutex
	registry  *domain.Registry
	instances []*Instance
}

// NewInstance returns an instance that leads a cluster of one, in term 1.
func NewInstance(id, raftAddress string) *Instance {
	i := &Instance{
		cluster: &cluster{registry: domain.NewRegistry()},
		id:      id,
		later:   make(chan struct{}),
		state: ports.LocalState{
			Roster:            domain.NewRoster(domain.Instance{ID: id, RaftAddress: raftAddress, Suffrage: domain.Voter}),
			ClusterID:         "cluster-of-" + id,
			Term:              1,
			Leading:           true,
			LeaderID:          id,
			LeaderRaftAddress: raftAddress,
			InTouch:           true,
			Member:            true,
			CaughtUp:          true,
		},
	}
	i.instances = []*Instance{i}
	return i
}

// NewFollower adds a follower, a voter, to the cluster of i. It has the same registry and
// roster at every moment, and leads when i hands over to it.
func (i *Instance) NewFollower(id, raftAddress string) *Instance {
	i.mu.Lock()
	defer i.mu.Unlock()
	follower := &Instance{cluster: i.cluster, id: id, later: make(chan struct{}), state: i.state}
	follower.state.Leading = false
	i.instances = append(i.instances, follower)
	i.setRoster(id, &domain.Instance{ID: id, RaftAddress: raftAddress, Suffrage: domain.Voter})
	return follower
}

// Change lets a test modify the state of this instance, and closes the channel of the state
// before. It does not affect other instances of the cluster.
func (i *Instance) Change(change func(*ports.LocalState)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(&i.state)
	i.wake()
}

// FailWith makes every method that needs the leader return err, until it is nil.
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

func (c *cluster) wakeAll() {
	for _, i := range c.instances {
		i.wake()
	}
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
func (i *Instance) Propose(ctx context.Context, cmd domain.Command) ([]domain.Change, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return nil, err
	}
	if i.needs != nil {
		if i.needs(cmd) > i.shared() {
			return nil, ports.ErrUpgrading
		}
		i.written = max(i.written, i.needs(cmd))
	}
	changes, err := i.registry.Apply(cmd)
	i.wakeAll()
	return changes, err
}

// Replace implements ports.Restorer.
func (i *Instance) Replace(ctx context.Context, with *domain.Replacement, expected *domain.Revision) (domain.Replaced, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return domain.Replaced{}, err
	}
	replaced, err := i.registry.Replace(with, expected)
	i.wakeAll()
	return replaced, err
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

// ReadHere implements ports.Registry.
func (i *Instance) ReadHere(ctx context.Context) (domain.View, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusalHere(ctx); err != nil {
		return domain.View{}, err
	}
	return i.registry.View(), nil
}

// refusalHere is refusal for methods that also work on a follower, as long as it has a leader.
func (i *Instance) refusalHere(ctx context.Context) error {
	err := i.refusal(ctx)
	switch {
	case !errors.Is(err, ports.ErrNotLeader):
		return err
	case i.state.LeaderID == "":
		return ports.ErrNoLeader
	}
	return nil
}

// State implements ports.Local.
func (i *Instance) State() (ports.LocalState, <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	state := i.state
	self, _ := state.Roster.Find(i.id)
	state.Staged = self.Suffrage != domain.Voter && slices.Contains(state.Promotions, i.id)
	return state, i.later
}

// LeaderContact implements ports.Local. The last contact is always just now, unless Touch
// set it.
func (i *Instance) LeaderContact() (time.Duration, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.contact, i.contact >= 0
}

// SureLeader implements ports.Local: a leader is sure if its contact was a moment ago.
func (i *Instance) SureLeader() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state.Leading && i.contact >= 0 && i.contact <= sureContact
}

// sureContact is the age of the last contact up to which SureLeader returns true.
const sureContact = 100 * time.Millisecond

// Touch lets a test set the time since the last contact with the leader; negative: never.
func (i *Instance) Touch(contact time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.contact = contact
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

// RosterHere implements ports.Membership.
func (i *Instance) RosterHere(ctx context.Context) (domain.Roster, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusalHere(ctx); err != nil {
		return domain.Roster{}, err
	}
	return i.state.Roster, nil
}

// Reads lets a test set the format that the instance reads, and the one that each command
// needs.
func (i *Instance) Reads(format int, needs func(cmd any) int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.format, i.needs = format, needs
}

// Heard implements ports.Formats.
func (i *Instance) Heard(id string, format int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.formats == nil {
		i.formats = map[string]int{}
	}
	i.formats[id] = format
	for known := range i.formats {
		if _, isMember := i.state.Roster.Find(known); !isMember {
			delete(i.formats, known)
		}
	}
}

// Shared implements ports.Formats.
func (i *Instance) Shared() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.shared()
}

// Written implements ports.Formats.
func (i *Instance) Written() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	written := max(1, i.format)
	for id, format := range i.formats {
		if _, isMember := i.state.Roster.Find(id); isMember {
			written = min(written, max(1, format))
		}
	}
	return max(i.written, written)
}

func (i *Instance) shared() int {
	shared := max(1, i.format)
	for _, other := range i.state.Roster.Instances() {
		if other.ID != i.id {
			shared = min(shared, max(1, i.formats[other.ID]))
		}
	}
	return shared
}

// AddPromotion implements ports.Promotions.
func (i *Instance) AddPromotion(ctx context.Context, id string) error {
	return i.promote(ctx, id, true)
}

// RemovePromotion implements ports.Promotions.
func (i *Instance) RemovePromotion(ctx context.Context, id string) error {
	return i.promote(ctx, id, false)
}

func (i *Instance) promote(ctx context.Context, id string, wanted bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return err
	}
	promotions := slices.DeleteFunc(slices.Clone(i.state.Promotions), func(other string) bool { return other == id })
	if wanted {
		promotions = append(promotions, id)
		slices.Sort(promotions)
	}
	for _, i := range i.instances {
		i.state.Promotions = promotions
	}
	i.wakeAll()
	return nil
}

// ReadIndex implements ports.ReadIndexer. All instances have always applied the same entries.
func (i *Instance) ReadIndex(ctx context.Context) (uint64, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return 0, err
	}
	return i.state.Applied, nil
}

// Add implements ports.Membership.
func (i *Instance) Add(ctx context.Context, instance domain.Instance) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return err
	}
	steps, err := i.state.Roster.StepsFor(instance)
	if err != nil || len(steps) == 0 {
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
	if err := i.state.Roster.CheckRemoval(id); err != nil {
		return err
	}
	i.setRoster(id, nil)
	return nil
}

// CanSpare implements ports.Membership: a majority of these voters is always left.
func (i *Instance) CanSpare(ctx context.Context, _ string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.refusal(ctx)
}

func (i *Instance) setRoster(id string, wanted *domain.Instance) {
	var members []domain.Instance
	for _, other := range i.state.Roster.Instances() {
		if other.ID != id {
			members = append(members, other)
		}
	}
	if wanted != nil {
		members = append(members, *wanted)
	}
	for _, i := range i.instances {
		i.state.Roster = domain.NewRoster(members...)
		_, i.state.Member = i.state.Roster.Find(i.id)
		i.state.Committed = append(slices.Clone(i.state.Committed), ports.CommittedRoster{
			Index: uint64(len(i.state.Committed)) + 1, Roster: i.state.Roster,
		})
	}
	i.wakeAll()
}

// HandOver implements ports.Leadership. The instance named by to, or else the first other
// voter, leads from now on, even if it exists only in the roster.
func (i *Instance) HandOver(ctx context.Context, to string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.refusal(ctx); err != nil {
		return err
	}
	if to != "" {
		if err := i.state.Roster.CheckSuccessor(to); err != nil {
			return err
		}
	}
	for _, successor := range i.state.Roster.Instances() {
		if successor.ID != i.id && successor.Suffrage == domain.Voter && (to == "" || to == successor.ID) {
			for _, i := range i.instances {
				i.state.Leading = i.id == successor.ID
				i.state.Term++
				i.state.LeaderID, i.state.LeaderRaftAddress = successor.ID, successor.RaftAddress
			}
			i.wakeAll()
			return nil
		}
	}
	return ports.ErrNoSuccessor
}
