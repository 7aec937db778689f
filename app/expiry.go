package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// leaseTick is how often the leader checks which leases have run out.
	leaseTick = 100 * time.Millisecond
	// longestStep is the most by which the clock of leases advances between two checks. If
	// more time passed, this instance may not have been able to take renewals in it.
	longestStep = 250 * time.Millisecond
	// contactAge is for how long contact with a majority need not be checked again. It is
	// far less than CutOff.
	contactAge = 10 * time.Millisecond
	// pausedFor is a time between two checks that is no mere delay: the process was
	// stopped. Nodes could not renew, and may have given up.
	pausedFor = time.Second
)

func (l *Leases) run() {
	timer := time.NewTimer(leaseTick)
	defer timer.Stop()
	for {
		state, later := l.Local.State()
		if state.Leading {
			later = nil // every write makes a later state, so go by the timer alone
			timer.Reset(leaseTick)
			l.expireOverdue()
		} else {
			l.dropTable()
		}
		select {
		case <-timer.C:
		case <-later:
		case <-l.running.Done():
			return
		}
	}
}

func (l *Leases) dropTable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table = nil
}

// catchUp brings the table up to date with the latest state, and returns that state.
// Afterwards the table is nil unless this instance leads. The caller holds mu.
func (l *Leases) catchUp() ports.LocalState {
	state, _ := l.Local.State()
	switch {
	case !state.Leading || state.Closed:
		l.table = nil
		return state
	case l.table == nil || l.term != state.Term:
		l.table, l.term, l.lastTick = newLeaseTable(), state.Term, time.Now()
		l.table.fill(state.View)
		l.position = state.View.Revision()
		return state
	}
	l.advanceClock()
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

// advanceClock advances the table's clock by the time in which this instance could take
// renewals.
func (l *Leases) advanceClock() {
	now := time.Now()
	passed := now.Sub(l.lastTick)
	l.lastTick = now
	if !l.cutOff && now.Sub(l.contactAt) < contactAge {
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
			l.table.restart() // only once: while it is cut off the clock stands still
		}
		return
	}
	l.contactAt = now
	l.table.clock += min(passed, longestStep)
}

// findOverdue finds the leases that have run out, and logs which pools begin or cease to be
// held back. The caller holds mu and has a table.
func (l *Leases) findOverdue() {
	for _, name := range l.table.findOverdue() {
		pool := l.table.troubled[name]
		if pool == nil || !pool.held {
			l.Logger.Info("expiry goes on", "pool", name)
			continue
		}
		l.Logger.Warn("expiry is held back: too many nodes have stopped renewing at once; POST /nodes/expire expires them",
			"pool", name, "overdue", len(pool.overdue), "leased", len(pool.leases))
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

// expireOverdue begins the expiry of leases that have run out.
func (l *Leases) expireOverdue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	if l.table == nil {
		return
	}
	l.findOverdue()
	if due := l.table.expirable(domain.MaxBatch, nil, l.pinned); len(due) > 0 {
		l.beginExpiry(due)
	}
}

// expiry is an expiry on its way.
type expiry struct {
	term    uint64
	done    chan struct{} // closed once changes and err are set
	changes []domain.Change
	err     error
}

// beginExpiry starts a goroutine that proposes the expiry of leases, once it has proved
// that this instance still leads in their term. Only the end of leadership or Close ends
// that early: as long as the outcome is open, nobody may be told that one of the nodes was
// renewed. The caller holds mu.
func (l *Leases) beginExpiry(due []*lease) *expiry {
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
		// Without this proof a leader that is cut off would leave the expiry in its log,
		// where it may take effect much later.
		_, e.err = l.Registry.Read(l.running)
		switch {
		case e.err != nil:
		case !l.leadsIn(e.term):
			// A later term began with the full time for every node. Renewals in it, or at
			// a leader in between, neither wait for this expiry nor change the revision.
			e.err = ports.ErrNotLeader
		default:
			e.changes, e.err = l.Registry.Propose(l.running, command)
		}
		l.endExpiry(e, due)
	})
	return e
}

func (l *Leases) endExpiry(e *expiry, due []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp() // removes the expired nodes from the table before anybody can renew them
	for _, one := range due {
		one.expiring = nil
		one.forced = false
	}
	l.clearDoubtful(e.changes)
	if errors.Is(e.err, ports.ErrOutcomeUnknown) {
		l.markDoubtful(e.term, due)
	}
	l.stats.Expired += uint64(len(e.changes))
	if len(e.changes) > 0 {
		l.Logger.Info("nodes ran out of their time to live", "nodes", len(e.changes),
			"first", e.changes[0].Node.ID, "revision", e.changes[len(e.changes)-1].Revision)
	}
	close(e.done)
}

// markDoubtful records that the outcome of an expiry is unknown. One of an earlier term may
// be the last to report that: it must not replace a later term. The caller holds mu.
func (l *Leases) markDoubtful(term uint64, due []*lease) {
	if l.doubtfulTerm < term {
		l.doubtfulTerm, l.doubtful = term, map[string]bool{}
	}
	for _, one := range due {
		l.doubtful[one.id] = true
	}
}

// clearDoubtful removes the nodes of a later write that was answered. The caller holds mu.
func (l *Leases) clearDoubtful(changes []domain.Change) {
	for _, change := range changes {
		delete(l.doubtful, change.Node.ID)
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
	begun, err := l.beginForced(pool)
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
	for _, change := range all { // the parts may have been applied in any order
		revision = max(revision, change.Revision)
	}
	return all, revision, nil
}

// beginForced begins the expiry of all overdue leases of the pool, even if it is held back.
func (l *Leases) beginForced(pool string) ([]*expiry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	if l.table == nil {
		return nil, ports.ErrNotLeader
	}
	l.findOverdue()
	due := l.table.expirable(len(l.table.nodes), &pool, l.pinned)
	for _, one := range due {
		one.forced = true
	}
	l.Logger.Info("an operator has the overdue nodes of a pool expire", "pool", pool, "overdue", len(due))
	var begun []*expiry
	for part := range slices.Chunk(due, domain.MaxBatch) {
		begun = append(begun, l.beginExpiry(part))
	}
	return begun, nil
}
