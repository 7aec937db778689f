package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// minCutOff is the least CutOff: an answer may take a moment, however frequent
// heartbeats are.
const minCutOff = time.Second

// LeaseConfig is what Leases need. All fields but CutOff must be set.
type LeaseConfig struct {
	Registry ports.Registry
	Local    ports.Local
	Logger   *slog.Logger

	// CutOff is after how long without contact with a majority a leader counts as cut
	// off. It must be well over the time between two heartbeats, or every node is given
	// its full time again and again, and none ever expires. It should not be much longer:
	// nodes that can't reach this instance either run out of time meanwhile. Less than a
	// second, and zero, mean a second.
	CutOff time.Duration
}

// Leases implements ports.Leases, and has the leader's clock of leases: between
// Open and Close it expires the nodes that are not renewed.
//
// Only the leader knows how long a node has left, in memory: renewals are not written to
// the log. A new leader gives every lease its full time again. An expiry is written to the
// log, for a node at a revision. While it is on its way the node can't be renewed, so an
// expiry never follows a renewal that was answered.
type Leases struct {
	LeaseConfig
	running context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	table *leaseTable // nil while this instance does not lead
	term  uint64      // the term of table
	// pinned counts, by node, the writes on their way that renew it. A pinned node does
	// not expire.
	pinned       map[string]int
	doubtfulTerm uint64 // the last term with an expiry whose outcome is unknown
	// doubtful are the nodes of such expiries. A later write removes those that it reports,
	// changed or not, because it comes after the expiry in the log. A node that stays here
	// needlessly costs one write.
	doubtful  map[string]bool
	position  domain.Revision // the revision up to which table follows the registry
	lastTick  time.Time
	cutOff    bool      // whether this instance was cut off at the last check of its contact
	contactAt time.Time // when contact with a majority was last found
	stats     LeaseStats
}

// LeaseStats are the metrics of leases. Renewals and Expired count since the start. Leased
// and Held are current, and zero unless this instance leads.
type LeaseStats struct {
	Leased   int
	Held     []ports.HeldPool
	Renewals uint64
	Expired  uint64
}

// NewLeases returns Leases. It starts nothing.
func NewLeases(config LeaseConfig) *Leases {
	config.CutOff = max(config.CutOff, minCutOff)
	l := &Leases{LeaseConfig: config, pinned: map[string]int{}}
	l.running, l.stop = context.WithCancel(context.Background())
	return l
}

// Open starts the clock. The context bounds only the start.
func (l *Leases) Open(context.Context) error {
	l.done.Go(l.run)
	return nil
}

// Close stops the clock and waits for what it has begun. It may be called
// without Open.
func (l *Leases) Close(context.Context) error {
	l.stop()
	l.done.Wait()
	return nil
}

// Renew implements ports.Leases.
func (l *Leases) Renew(ctx context.Context, id string) (*domain.CacheNode, domain.Revision, error) {
	for {
		r, wait := l.noteRenewal(id)
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		}
		if r.sure {
			return l.answerRenewal(ctx, r)
		}
		// The renewal counts if this instance led when it was noted. A read that begins
		// now proves that, and tells whether the node exists.
		view, err := l.Registry.Read(ctx)
		if err != nil {
			return nil, 0, err
		}
		known := r.node != nil
		r.revision = view.Revision()
		switch r.node, _ = view.Node(id); {
		case r.node == nil:
			return nil, 0, domain.NoSuchNode(id, r.revision)
		case r.node.TTLSeconds == 0:
			return nil, 0, &domain.Refusal{
				Err:      fmt.Errorf("%w: node %q stays until it is removed", domain.ErrNoTimeToLive, id),
				Revision: r.revision, Current: r.node,
			}
		case known && l.leadsIn(r.term):
			return l.answerRenewal(ctx, r)
		}
	}
}

// renewal is a renewal that was noted in the table, but not answered yet.
type renewal struct {
	node     *domain.CacheNode // nil: as far as this instance knows there is nothing to renew
	revision domain.Revision
	term     uint64
	// sure: this instance surely led when the renewal was noted.
	sure bool
	// doubtful: an expiry of the node, begun in this term, may yet take effect.
	doubtful bool
}

// answerRenewal answers a renewal that counts. If the node is doubtful it writes a Revive
// first. The expiry may be in the log of this very leader, as after its disk hung; no proof
// of leadership shows that, but a write now comes after the expiry in the log.
func (l *Leases) answerRenewal(ctx context.Context, r renewal) (*domain.CacheNode, domain.Revision, error) {
	if r.node.ExpiredFrom == "" && !r.doubtful {
		return r.node, r.revision, nil
	}
	change, err := only(l.propose(ctx, domain.Revive{ID: r.node.ID}, r.node.ID))
	if err != nil {
		return nil, 0, err
	}
	return change.Node, change.Revision, nil
}

// noteRenewal renews the lease in the table, unless an expiry of it is on its way: then it
// returns a channel to wait for.
func (l *Leases) noteRenewal(id string) (r renewal, wait <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := l.catchUp()
	if l.table == nil {
		return renewal{}, nil
	}
	node, known := state.View.Node(id)
	if !known || node.TTLSeconds == 0 {
		return renewal{}, nil
	}
	if one := l.table.nodes[id]; one != nil {
		if one.expiring != nil {
			return renewal{}, one.expiring
		}
		l.table.renew(one)
	}
	unsure := l.doubtfulTerm == l.term
	doubtful := unsure && l.doubtful[id]
	if !doubtful { // else unpin counts it, once the write that it needs is answered
		l.stats.Renewals++
	}
	// Ask after renewing, so that no pause can lie in between. If the outcome of an expiry
	// of this term is unknown, the next leader may carry it out, so this one is not sure.
	sure := l.Local.SureLeader() && !unsure
	return renewal{node: node, revision: state.View.Revision(), term: l.term, sure: sure, doubtful: doubtful}, nil
}

// leadsIn reports whether this instance still leads in term, so that the table of that term
// still counts.
func (l *Leases) leadsIn(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	return l.table != nil && l.term == term
}

// propose proposes cmd, and keeps the nodes that it renews from expiring meanwhile.
func (l *Leases) propose(ctx context.Context, cmd domain.Command, renewed ...string) ([]domain.Change, error) {
	release, err := l.pin(ctx, renewed)
	if err != nil {
		return nil, err
	}
	changes, err := l.Registry.Propose(ctx, cmd)
	release(changes)
	return changes, err
}

// pin keeps nodes from expiring while a write that renews them is on its way. It first
// waits for expiries of them that are on their way. The caller must call release with the
// changes that the write made.
func (l *Leases) pin(ctx context.Context, ids []string) (release func([]domain.Change), err error) {
	for {
		wait := l.tryPin(ids)
		if wait == nil {
			return func(changes []domain.Change) { l.unpin(ids, changes) }, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Leases) tryPin(ids []string) (wait <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.catchUp(); l.table != nil {
		for _, id := range ids {
			if one := l.table.nodes[id]; one != nil && one.expiring != nil {
				return one.expiring
			}
		}
	}
	// Pin ids, not leases: a node may be added or replaced before the write is done.
	for _, id := range ids {
		l.pinned[id]++
	}
	return nil
}

// unpin undoes tryPin. It also renews the nodes that the write left unchanged; catchUp
// renews those that it changed.
func (l *Leases) unpin(ids []string, changes []domain.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	for _, id := range ids {
		if l.pinned[id]--; l.pinned[id] == 0 {
			delete(l.pinned, id)
		}
	}
	l.clearDoubtful(changes)
	if l.table == nil {
		return
	}
	for _, change := range changes {
		if one := l.table.nodes[change.Node.ID]; one != nil && change.Effect == domain.Unchanged {
			l.table.renew(one)
			l.stats.Renewals++
		}
	}
}

// Held implements ports.Leases.
func (l *Leases) Held() []ports.HeldPool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.catchUp(); l.table == nil {
		return nil
	}
	return l.table.heldPools()
}

// Stats returns the current statistics. It may be called at any time.
func (l *Leases) Stats() LeaseStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	stats := l.stats
	if l.catchUp(); l.table != nil {
		stats.Leased, stats.Held = len(l.table.nodes), l.table.heldPools()
	}
	return stats
}
