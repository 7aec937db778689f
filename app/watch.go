package app

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// clusterWatch holds the latest state of the raft cluster for all streams that follow it.
type clusterWatch struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	// polling holds a token while the instances are asked, so that an older
	// answer never replaces a newer one.
	polling chan struct{}
	begun   atomic.Uint64 // rounds of polling begun so far

	mu      sync.Mutex
	latest  *clusterState
	later   chan struct{} // closed once there is a later state, or none to come
	round   uint64        // the round that latest came from
	reached uint64        // the index up to which latest holds what was committed; 0: unknown
	closed  bool
}

// clusterState is a state of the raft cluster, linked to the next one, so that each stream
// walks through all of them at its own pace.
type clusterState struct {
	domain.Cluster
	next *clusterState
}

// Open starts polling the other instances, and the goroutines that promote and demote. The
// context bounds only the start.
func (c *Cluster) Open(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	c.watch.cancel = cancel
	c.watch.done.Go(func() { c.pollMembers(ctx) })
	c.watch.done.Go(func() { c.promote(ctx) })
	c.watch.done.Go(func() { c.readmit(ctx) })
	return nil
}

// Close stops what Open started and waits for it. All streams end with ErrClosed. It may be
// called without Open.
func (c *Cluster) Close(context.Context) error {
	if c.watch.cancel != nil {
		c.watch.cancel()
	}
	c.watch.done.Wait()
	c.watch.close()
	return nil
}

// pollMembers polls every WatchInterval, and at once when the leader or the membership
// changes.
func (c *Cluster) pollMembers(ctx context.Context) {
	ticker := time.NewTicker(c.WatchInterval)
	defer ticker.Stop()
	var known ports.LocalState
	for {
		state, later := c.Local.State()
		if !sameLeadershipAndRoster(known, state) {
			known = state
			_ = c.poll(ctx) // Follow returns such errors to its caller
			continue
		}
		select {
		case <-ticker.C:
			_ = c.poll(ctx)
		case <-later:
		case <-ctx.Done():
			return
		}
	}
}

func sameLeadershipAndRoster(a, b ports.LocalState) bool {
	return a.Leading == b.Leading && a.Term == b.Term && a.Closed == b.Closed &&
		a.LeaderID == b.LeaderID && a.InTouch == b.InTouch &&
		publishedRoster(a).Index == publishedRoster(b).Index && a.Roster.Equal(b.Roster)
}

// publishedRoster is the membership that streams see: the last committed one. If none is
// known, as after a start, it is the latest.
func publishedRoster(state ports.LocalState) ports.CommittedRoster {
	if len(state.Committed) == 0 {
		return ports.CommittedRoster{Roster: state.Roster}
	}
	return state.LastCommitted()
}

// poll asks all instances and publishes the result. Concurrent calls share a round that
// began after they were made, so any number of them costs at most two rounds.
func (c *Cluster) poll(ctx context.Context) error {
	before := c.watch.begun.Load()
	select {
	case c.watch.polling <- struct{}{}:
		defer func() { <-c.watch.polling }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.watch.polledAfter(before) {
		return nil
	}
	// Begin the round before reading the state: whoever shares this round relies on a
	// state that is at least as late as its call.
	round := c.watch.begun.Add(1)
	state, _ := c.Local.State()
	if state.Closed {
		c.watch.wake()
		return ports.ErrClosed
	}
	cluster := c.describe(ctx, state, publishedRoster(state).Roster)
	if err := ctx.Err(); err != nil {
		// The questions were cut short: publishing this would tell every stream that
		// all instances are unreachable.
		return err
	}
	c.watch.publish(round, state, cluster)
	return nil
}

func (w *clusterWatch) polledAfter(round uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.round > round
}

// publish makes cluster, the result of a round that began in state, the latest. Before it
// come the memberships that were committed and replaced since the round before.
func (w *clusterWatch) publish(round uint64, state ports.LocalState, cluster domain.Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, missed := range state.Committed {
		if w.reached > 0 && w.reached < missed.Index && missed.Index < publishedRoster(state).Index {
			w.appendLocked(w.latest.WithRoster(missed.Roster))
		}
	}
	w.appendLocked(cluster)
	w.round, w.reached = round, 0
	if state.CaughtUp { // else it is still replaying what happened before this round
		w.reached = max(state.Applied, publishedRoster(state).Index)
	}
	w.wakeLocked()
}

func (w *clusterWatch) appendLocked(cluster domain.Cluster) {
	if cluster.ID == w.latest.ID && len(cluster.EventsSince(w.latest.Cluster)) == 0 {
		return // or a stream that is never read would keep an endless list alive
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
	if err := c.poll(ctx); err != nil {
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
	known   *clusterState // what the follower knows; nil before the snapshot
}

// Next implements ports.ClusterStream.
func (s *clusterStream) Next() (ports.ClusterDelivery, <-chan struct{}, error) {
	latest, later, closed := s.cluster.watch.state()
	state, _ := s.cluster.Local.State()
	switch end := streamEnd(state, s.source); {
	case closed:
		return ports.ClusterDelivery{}, nil, ports.ErrClosed
	case s.known == nil && errors.Is(end, ports.ErrCutOff):
		// A stale stream first delivers what this instance knows.
	case end != nil:
		return ports.ClusterDelivery{}, nil, end
	}
	if s.known == nil {
		s.known = latest
		return ports.ClusterDelivery{Snapshot: &latest.Cluster}, later, nil
	}
	var events []domain.ClusterEvent
	for s.known != latest {
		now := s.known.next
		events = append(events, now.EventsSince(s.known.Cluster)...)
		s.known = now
	}
	return ports.ClusterDelivery{Events: events}, later, nil
}
