package app

import (
	"context"
	"errors"
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
	begun  uint64        // rounds of asking so far
	round  uint64        // the one that latest came from
	closed bool
}

// Open starts the watch over the other instances. The context bounds only the
// start.
func (c *Cluster) Open(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	c.watch.cancel = cancel
	c.watch.done.Go(func() { c.keepWatch(ctx) })
	c.watch.done.Go(func() { c.promote(ctx) })
	c.watch.done.Go(func() { c.readmit(ctx) })
	return nil
}

// Close ends the watch and waits for it; the streams of those who follow end
// with ErrClosed. It may be called without Open.
func (c *Cluster) Close(context.Context) error {
	if c.watch.cancel != nil {
		c.watch.cancel()
	}
	c.watch.done.Wait()
	c.watch.close()
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
		if !sameRule(known, state) {
			known = state
			_ = c.look(ctx) // its errors are for those who ask
			continue
		}
		select {
		case <-ticker.C:
			_ = c.look(ctx)
		case <-later:
		case <-ctx.Done():
			return
		}
	}
}

func sameRule(a, b ports.LocalState) bool {
	return a.Leading == b.Leading && a.Term == b.Term && a.Closed == b.Closed &&
		a.LeaderID == b.LeaderID && a.InTouch == b.InTouch && a.Roster.Equal(b.Roster)
}

// look asks the instances and tells the followers what is so now. Those who
// wait for their turn share a round that began after they came: however many
// come at once, they cost two rounds.
func (c *Cluster) look(ctx context.Context) error {
	came := c.watch.rounds()
	select {
	case c.watch.asking <- struct{}{}:
		defer func() { <-c.watch.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.watch.heardSince(came) {
		return nil
	}
	// The round begins before the state is read: who shares it may rely on its
	// showing what they saw.
	round := c.watch.begin()
	state, _ := c.Local.State()
	if state.Closed {
		c.watch.wake()
		return ports.ErrClosed
	}
	cluster := c.describe(ctx, state, state.Roster)
	if err := ctx.Err(); err != nil {
		// Who stopped asking has not learnt who answers: to publish this would
		// tell every follower that all instances are unreachable.
		return err
	}
	c.watch.publish(round, cluster)
	return nil
}

func (w *clusterWatch) rounds() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun
}

func (w *clusterWatch) heardSince(round uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.round > round
}

func (w *clusterWatch) begin() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun++
	return w.begun
}

func (w *clusterWatch) publish(round uint64, cluster domain.Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest, w.round = cluster, round
	w.wakeLocked()
}

func (w *clusterWatch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakeLocked()
}

func (w *clusterWatch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.wakeLocked()
}

func (w *clusterWatch) wakeLocked() {
	close(w.later)
	w.later = make(chan struct{})
}

func (w *clusterWatch) state() (latest domain.Cluster, later <-chan struct{}, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest, w.later, w.closed
}

// Follow implements ports.Cluster.
func (c *Cluster) Follow(ctx context.Context, source ports.Source) (ports.ClusterStream, error) {
	if _, err := c.roster(ctx, source); err != nil {
		return nil, err
	}
	if err := c.look(ctx); err != nil {
		return nil, err
	}
	if state, _ := c.Local.State(); source == ports.Leader && !state.Leading {
		return nil, ports.ErrNotLeader
	}
	return &clusterStream{cluster: c, source: source}, nil
}

type clusterStream struct {
	cluster *Cluster
	source  ports.Source
	told    *domain.Cluster // what the follower knows; nil before the snapshot
}

// Next implements ports.ClusterStream.
func (s *clusterStream) Next() (ports.ClusterDelivery, <-chan struct{}, error) {
	latest, later, closed := s.cluster.watch.state()
	state, _ := s.cluster.Local.State()
	switch end := endOf(state, s.source); {
	case closed:
		return ports.ClusterDelivery{}, nil, ports.ErrClosed
	case s.told == nil && errors.Is(end, ports.ErrCutOff):
		// Who asks this instance, whatever it knows, is told that first.
	case end != nil:
		return ports.ClusterDelivery{}, nil, end
	}
	if s.told == nil {
		s.told = &latest
		return ports.ClusterDelivery{Snapshot: &latest}, later, nil
	}
	events := latest.EventsSince(*s.told)
	s.told = &latest
	return ports.ClusterDelivery{Events: events}, later, nil
}
