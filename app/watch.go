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

	mu      sync.Mutex
	latest  *clusterState
	later   chan struct{} // closed once there is a later state, or none to come
	begun   uint64        // rounds of asking so far
	round   uint64        // the one that latest came from
	reached uint64        // the index up to which latest holds what was committed; 0: nobody knows
	closed  bool
}

// clusterState is a state of the raft cluster, and the way to the one after it, so that
// each follower walks through all of them at its own pace.
type clusterState struct {
	domain.Cluster
	next *clusterState
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
		a.LeaderID == b.LeaderID && a.InTouch == b.InTouch &&
		toldRoster(a).Index == toldRoster(b).Index && a.Roster.Equal(b.Roster)
}

// toldRoster is the membership that followers are told of: the last that was committed. Where
// none is known to be, as after a start, it is the latest.
func toldRoster(state ports.LocalState) ports.CommittedRoster {
	if len(state.Committed) == 0 {
		return ports.CommittedRoster{Roster: state.Roster}
	}
	return state.LastCommitted()
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
	cluster := c.describe(ctx, state, toldRoster(state).Roster)
	if err := ctx.Err(); err != nil {
		// Who stopped asking has not learnt who answers: to publish this would
		// tell every follower that all instances are unreachable.
		return err
	}
	c.watch.publish(round, state, cluster)
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

// publish makes cluster, which came of asking in state, the latest. The memberships that
// were committed and replaced since the one before come first.
func (w *clusterWatch) publish(round uint64, state ports.LocalState, cluster domain.Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, missed := range state.Committed {
		if w.reached > 0 && w.reached < missed.Index && missed.Index < toldRoster(state).Index {
			w.appendLocked(w.latest.WithRoster(missed.Roster))
		}
	}
	w.appendLocked(cluster)
	w.round, w.reached = round, 0
	if state.CaughtUp { // what it still replays happened before it looked
		w.reached = max(state.Applied, toldRoster(state).Index)
	}
	w.wakeLocked()
}

func (w *clusterWatch) appendLocked(cluster domain.Cluster) {
	if cluster.ID == w.latest.ID && len(cluster.EventsSince(w.latest.Cluster)) == 0 {
		return // so that a follower which takes nothing keeps nothing alive
	}
	next := &clusterState{Cluster: cluster}
	w.latest.next = next
	w.latest = next
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

func (w *clusterWatch) state() (latest *clusterState, later <-chan struct{}, closed bool) {
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
	told    *clusterState // what the follower knows; nil before the snapshot
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
		s.told = latest
		return ports.ClusterDelivery{Snapshot: &latest.Cluster}, later, nil
	}
	var events []domain.ClusterEvent
	for s.told != latest {
		now := s.told.next
		events = append(events, now.EventsSince(s.told.Cluster)...)
		s.told = now
	}
	return ports.ClusterDelivery{Events: events}, later, nil
}
