package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// clusterWatch is the latest state of the raft cluster, for all who follow it.
type clusterWatch struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	// asking holds a token while the instances are asked, so that an older
	// answer never replaces a newer one.
	asking chan struct{}

	mu     sync.Mutex
	latest domain.Cluster
	later  chan struct{} // closed once there is a later state, or none to come
}

// Open starts the watch over the other instances. The context bounds only the
// start.
func (c *Cluster) Open(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	c.watch.cancel = cancel
	c.watch.done.Go(func() { c.keepWatch(ctx) })
	return nil
}

// Close ends the watch and waits for it. It may be called without Open.
func (c *Cluster) Close(context.Context) error {
	if c.watch.cancel != nil {
		c.watch.cancel()
	}
	c.watch.done.Wait()
	return nil
}

// keepWatch looks after every WatchInterval, and at once when the leader or the
// membership changed.
func (c *Cluster) keepWatch(ctx context.Context) {
	ticker := time.NewTicker(c.WatchInterval)
	defer ticker.Stop()
	var known ports.LocalState
	for {
		state, later := c.Local.State()
		if state.Leading != known.Leading || state.Term != known.Term ||
			!slices.Equal(state.Roster.Instances(), known.Roster.Instances()) {
			known = state
			c.look(ctx)
			continue
		}
		select {
		case <-ticker.C:
			c.look(ctx)
		case <-later:
		case <-ctx.Done():
			return
		}
	}
}

// look asks the instances and tells the followers; a follower of an instance
// that does not lead only needs to be woken, to see that.
func (c *Cluster) look(ctx context.Context) {
	select {
	case c.watch.asking <- struct{}{}:
		defer func() { <-c.watch.asking }()
	case <-ctx.Done():
		return
	}
	state, _ := c.Local.State()
	if !state.Leading {
		c.watch.wake()
		return
	}
	c.watch.publish(c.describe(ctx, state, state.Roster))
}

func (w *clusterWatch) publish(cluster domain.Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = cluster
	close(w.later)
	w.later = make(chan struct{})
}

func (w *clusterWatch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.later)
	w.later = make(chan struct{})
}

func (w *clusterWatch) state() (domain.Cluster, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest, w.later
}

// Follow implements ports.Cluster.
func (c *Cluster) Follow(ctx context.Context) (ports.ClusterStream, error) {
	if _, err := c.Membership.Roster(ctx); err != nil {
		return nil, err
	}
	c.look(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &clusterStream{cluster: c}, nil
}

type clusterStream struct {
	cluster *Cluster
	told    *domain.Cluster // what the follower knows; nil before the snapshot
}

// Next implements ports.ClusterStream.
func (s *clusterStream) Next() (ports.ClusterDelivery, <-chan struct{}, error) {
	latest, later := s.cluster.watch.state()
	state, _ := s.cluster.Local.State()
	switch {
	case state.Closed:
		return ports.ClusterDelivery{}, nil, ports.ErrClosed
	case !state.Leading:
		return ports.ClusterDelivery{}, nil, ports.ErrNotLeader
	case s.told == nil:
		s.told = &latest
		return ports.ClusterDelivery{Snapshot: &latest}, later, nil
	}
	events := latest.EventsSince(*s.told)
	s.told = &latest
	return ports.ClusterDelivery{Events: events}, later, nil
}
