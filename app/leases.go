package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// leaseTick is how often the leader looks who has run out of time.
	leaseTick = 100 * time.Millisecond
	// longestStep is how much of the time between two looks counts. When there
	// was more of it this instance had no time to take renewals.
	longestStep = 250 * time.Millisecond
	// contactAge is for how long it need not be asked again whether a majority is heard
	// from: far less than it is counted as heard from.
	contactAge = 10 * time.Millisecond
	// pausedFor is a time between two looks that is no delay any more: the
	// process was stopped. Whoever renews could not, and may have given up.
	pausedFor = time.Second
	// minCutOff is the least of LeaseConfig.CutOff: however frequent heartbeats are, an
	// answer may take a moment.
	minCutOff = time.Second
)

// LeaseConfig is what Leases need. All but CutOff must be given.
type LeaseConfig struct {
	Registry ports.Registry
	Local    ports.Local
	Logger   *slog.Logger

	// CutOff is how long a leader hears from no majority until it counts as cut off. It
	// must be well over the time between two heartbeats, or every node is given its full
	// time again and again, and none ever expires. It should not be much longer: nodes that
	// can't reach this instance either run out of time meanwhile. Less than a second, and
	// zero, mean a second.
	CutOff time.Duration
}

// Leases implements ports.Leases, and is the leader's clock of leases: between
// Open and Close it expires the nodes that are not renewed.
//
// How long a node has left is known to the leader alone, in memory: renewals
// write nothing. A new leader gives every lease its full time again. What expiry
// does goes through the log, for the node at the revision that was meant; and
// while that is on its way the node can't be renewed, so that no renewal that
// was answered is overtaken by it.
type Leases struct {
	LeaseConfig
	running context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	table *leaseTable // nil while this instance does not lead
	term  uint64      // in which it does
	// busy is how many writes are on their way that renew a node: it does not
	// expire before their outcome is known.
	busy   map[string]int
	unsure uint64 // term in which an expiry began whose outcome is not known
	// doubtful are the nodes of those of that term, each until another write of it is
	// answered, which comes behind them in the log.
	doubtful map[string]bool
	position domain.Revision
	looked   time.Time
	cutOff   bool      // no majority was heard from for long, when that was last asked
	inTouch  time.Time // when that was last asked, and there was one
	stats    LeaseStats
}

// LeaseStats are what metrics say of leases. Renewals and Expired count since the start.
// Leased and Held are of now; both are zero unless this instance leads.
type LeaseStats struct {
	Leased   int
	Held     []ports.HeldPool
	Renewals uint64
	Expired  uint64
}

// NewLeases starts nothing.
func NewLeases(config LeaseConfig) *Leases {
	config.CutOff = max(config.CutOff, minCutOff)
	l := &Leases{LeaseConfig: config, busy: map[string]int{}}
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

func (l *Leases) run() {
	timer := time.NewTimer(leaseTick)
	defer timer.Stop()
	for {
		state, later := l.Local.State()
		if state.Leading {
			later = nil // every write is a later state
			timer.Reset(leaseTick)
			l.expireDue()
		} else {
			l.forget()
		}
		select {
		case <-timer.C:
		case <-later:
		case <-l.running.Done():
			return
		}
	}
}

func (l *Leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table = nil
}

// catchUp brings the table to the latest state, which it gives. The table is nil
// unless this instance leads. The caller holds mu.
func (l *Leases) catchUp() ports.LocalState {
	state, _ := l.Local.State()
	switch {
	case !state.Leading || state.Closed:
		l.table = nil
		return state
	case l.table == nil || l.term != state.Term:
		l.table, l.term, l.looked = newLeaseTable(), state.Term, time.Now()
		l.table.fill(state.View)
		l.position = state.View.Revision()
		return state
	}
	l.advance()
	changes, reaches := state.View.Since(l.position)
	if !reaches {
		l.table.fill(state.View)
	}
	for i := range changes {
		l.table.follow(&changes[i])
	}
	l.position = state.View.Revision()
	return state
}

// advance moves the table's clock, by the time in which this instance was there.
func (l *Leases) advance() {
	now := time.Now()
	passed := now.Sub(l.looked)
	l.looked = now
	if !l.cutOff && now.Sub(l.inTouch) < contactAge {
		l.table.clock += passed
		return
	}
	contact, ever := l.Local.LeaderContact()
	wasCutOff := l.cutOff
	l.cutOff = !ever || contact >= l.CutOff
	if passed >= pausedFor || l.cutOff {
		if !wasCutOff {
			l.Logger.Warn("this instance stood still, or is cut off: every time to live begins anew",
				"still", passed.Round(time.Millisecond), "cut_off", contact.Round(time.Millisecond))
			l.table.restart() // once: from then on the clock stands still
		}
		return
	}
	l.inTouch = now
	l.table.clock += min(passed, longestStep)
}

// look finds who has run out of time, and says which pools begin to be held
// back, or are so no more. The caller holds mu and has a table.
func (l *Leases) look() {
	for _, name := range l.table.look() {
		pool := l.table.troubled[name]
		if pool == nil || !pool.held {
			l.Logger.Info("expiry goes on", "pool", name)
			continue
		}
		l.Logger.Warn("expiry is held back: too many nodes have stopped renewing at once; POST /nodes/expire expires them",
			"pool", name, "overdue", len(pool.overdue), "leased", len(pool.leases))
	}
}

// expireDue begins to expire those whose time is over.
func (l *Leases) expireDue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	if l.table == nil {
		return
	}
	l.look()
	if due := l.table.expirable(domain.MaxBatch, nil, l.busy); len(due) > 0 {
		l.begin(due)
	}
}

// expiry is what becomes of an expiry that is on its way.
type expiry struct {
	term    uint64
	done    chan struct{}
	changes []domain.Change
	err     error
}

// begin proposes the expiry of leases that are expirable, once it is proven that
// this instance leads, if it does so in the term of the leases. It is given up only
// when this instance loses leadership or closes: before that its outcome is not
// known, and until then nobody may be told that one of the nodes was renewed.
// The caller holds mu.
func (l *Leases) begin(due []*lease) *expiry {
	e := &expiry{term: l.term, done: make(chan struct{})}
	slices.SortFunc(due, func(a, b *lease) int {
		return cmp.Or(cmp.Compare(a.end(), b.end()), cmp.Compare(a.id, b.id))
	})
	command := domain.Expire{Nodes: make([]domain.NodeAt, len(due))}
	for i, one := range due {
		one.expiring = e.done
		command.Nodes[i] = domain.NodeAt{ID: one.id, Revision: one.revision}
	}
	l.done.Go(func() {
		// A leader that is cut off would leave this in its log, to take effect when
		// it is cut off no more.
		_, e.err = l.Registry.Read(l.running)
		switch {
		case e.err != nil:
		case !l.leadsIn(e.term):
			// A later term begins with every node's full time, and a renewal in it, or by
			// who led meanwhile, neither waits for this nor makes another revision.
			e.err = ports.ErrNotLeader
		default:
			e.changes, e.err = l.Registry.Propose(l.running, command)
		}
		l.end(e, due)
	})
	return e
}

func (l *Leases) end(e *expiry, due []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp() // what has expired is gone from the table before anybody renews it
	for _, one := range due {
		one.expiring = nil
		one.forced = false
	}
	l.dispel(e.changes)
	if errors.Is(e.err, ports.ErrOutcomeUnknown) {
		l.doubt(e.term, due)
	}
	l.stats.Expired += uint64(len(e.changes))
	if len(e.changes) > 0 {
		l.Logger.Info("nodes ran out of their time to live", "nodes", len(e.changes),
			"first", e.changes[0].Node.ID, "revision", e.changes[len(e.changes)-1].Revision)
	}
	close(e.done)
}

// doubt and dispel need the lock.
func (l *Leases) doubt(term uint64, due []*lease) {
	if l.unsure != term {
		l.unsure, l.doubtful = term, map[string]bool{}
	}
	for _, one := range due {
		l.doubtful[one.id] = true
	}
}

func (l *Leases) dispel(changes []domain.Change) {
	for _, change := range changes {
		delete(l.doubtful, change.Node.ID)
	}
}

// Renew implements ports.Leases.
func (l *Leases) Renew(ctx context.Context, id string) (*domain.CacheNode, domain.Revision, error) {
	for {
		r, wait := l.renew(id)
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		}
		if r.sure {
			return l.renewed(ctx, r)
		}
		// What was done above counts if this instance led then: a proof that begins
		// now says so, and what it reads is what there is.
		view, err := l.Registry.Read(ctx)
		if err != nil {
			return nil, 0, err
		}
		known := r.node != nil
		r.seen = view.Revision()
		switch r.node, _ = view.Node(id); {
		case r.node == nil:
			return nil, 0, domain.NoSuchNode(id, r.seen)
		case r.node.TTLSeconds == 0:
			return nil, 0, &domain.Refusal{
				Err:      fmt.Errorf("%w: node %q stays until it is removed", domain.ErrNoTimeToLive, id),
				Revision: r.seen, Current: r.node,
			}
		case known && l.leadsIn(r.term):
			return l.renewed(ctx, r)
		}
	}
}

// renewal is one that was noted.
type renewal struct {
	node *domain.CacheNode // nil: as far as this instance knows there is nothing to renew
	seen domain.Revision
	term uint64
	// sure: this instance led when it was noted.
	sure bool
	// doubtful: an expiry of the node, begun in this term, may yet be carried out.
	doubtful bool
}

// renewed answers a renewal that counts. An expiry that nobody waits for any more may lie in
// the log of this very leader, as when its disk hung: no proof of leadership tells, but what
// is written now comes behind it.
func (l *Leases) renewed(ctx context.Context, r renewal) (*domain.CacheNode, domain.Revision, error) {
	if r.node.ExpiredFrom == "" && !r.doubtful {
		return r.node, r.seen, nil
	}
	change, err := only(l.propose(ctx, domain.Revive{ID: r.node.ID}, r.node.ID))
	if err != nil {
		return nil, 0, err
	}
	return change.Node, change.Revision, nil
}

// renew notes a renewal now, unless the outcome of an expiry has to be waited for.
func (l *Leases) renew(id string) (r renewal, wait <-chan struct{}) {
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
	unsure := l.unsure == l.term
	doubtful := unsure && l.doubtful[id]
	if !doubtful { // else it counts when the write that it needs is answered
		l.stats.Renewals++
	}
	// Asked after the renewal, so that no pause lies between. The outcome of an
	// expiry that was cut short is not known in its term: the next leader may
	// carry it out.
	sure := l.Local.SureLeader() && !unsure
	return renewal{node: node, seen: state.View.Revision(), term: l.term, sure: sure, doubtful: doubtful}, nil
}

// leadsIn reports whether what was noted of leases in the given term still counts.
func (l *Leases) leadsIn(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	return l.table != nil && l.term == term
}

// propose keeps the nodes that cmd renews from expiring while it is on its way.
func (l *Leases) propose(ctx context.Context, cmd domain.Command, renewed ...string) ([]domain.Change, error) {
	release, err := l.occupy(ctx, renewed)
	if err != nil {
		return nil, err
	}
	changes, err := l.Registry.Propose(ctx, cmd)
	release(changes)
	return changes, err
}

// occupy keeps nodes from expiring while a write that renews them is on its way,
// and waits for those that expire right now. release is called with what the
// write did.
func (l *Leases) occupy(ctx context.Context, ids []string) (release func([]domain.Change), err error) {
	for {
		wait := l.tryOccupy(ids)
		if wait == nil {
			return func(changes []domain.Change) { l.release(ids, changes) }, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Leases) tryOccupy(ids []string) (wait <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.catchUp(); l.table != nil {
		for _, id := range ids {
			if one := l.table.nodes[id]; one != nil && one.expiring != nil {
				return one.expiring
			}
		}
	}
	// By their ids: a node may be added, or be another one, before the write is done.
	for _, id := range ids {
		l.busy[id]++
	}
	return nil
}

// release renews what a write left as it was, too.
func (l *Leases) release(ids []string, changes []domain.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	for _, id := range ids {
		if l.busy[id]--; l.busy[id] == 0 {
			delete(l.busy, id)
		}
	}
	l.dispel(changes)
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

// restart gives every node its full time to live again.
func (l *Leases) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.catchUp(); l.table != nil {
		l.table.restart()
	}
}

// Expire implements ports.Leases.
func (l *Leases) Expire(ctx context.Context, pool string) ([]domain.Change, domain.Revision, error) {
	if err := domain.CheckID("pool", pool); err != nil {
		return nil, 0, err
	}
	view, err := l.Registry.Read(ctx)
	if err != nil {
		return nil, 0, err
	}
	begun, err := l.force(pool)
	if err != nil {
		return nil, 0, err
	}
	var all []domain.Change
	var fault error
	revision := view.Revision()
	for _, e := range begun {
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, ctx.Err())
		}
		fault = errors.Join(fault, e.err)
		all = append(all, e.changes...)
	}
	switch {
	case fault != nil && len(all) > 0:
		return nil, 0, fmt.Errorf("%w: %d nodes have expired, and not all: %w", ports.ErrOutcomeUnknown, len(all), fault)
	case fault != nil:
		return nil, 0, fault
	}
	for _, change := range all { // the parts were carried out in any order
		revision = max(revision, change.Revision)
	}
	return all, revision, nil
}

// force begins the expiry of all who are overdue in the pool.
func (l *Leases) force(pool string) ([]*expiry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	if l.table == nil {
		return nil, ports.ErrNotLeader
	}
	l.look()
	due := l.table.expirable(len(l.table.nodes), &pool, l.busy)
	for _, one := range due {
		one.forced = true
	}
	l.Logger.Info("an operator has the overdue nodes of a pool expire", "pool", pool, "overdue", len(due))
	var begun []*expiry
	for part := range slices.Chunk(due, domain.MaxBatch) {
		begun = append(begun, l.begin(part))
	}
	return begun, nil
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

// Stats may be called at any time.
func (l *Leases) Stats() LeaseStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	stats := l.stats
	if l.catchUp(); l.table != nil {
		stats.Leased, stats.Held = len(l.table.nodes), l.table.heldPools()
	}
	return stats
}
