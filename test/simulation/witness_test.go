package simulation

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// witnessed is everything that watchers and subscribers have observed, at any time.
// It is safe for concurrent use.
type witnessed struct {
	mu        sync.Mutex
	changes   []domain.Change            // the first one has revision 1
	revisions map[uint64]domain.Revision // by index of a log entry: the revision after it
	leaders   map[uint64]string          // by term
	term      uint64                     // the latest term with a leader
	positions map[int]domain.Revision    // by subscriber
}

func newWitnessed() witnessed {
	return witnessed{
		revisions: map[uint64]domain.Revision{}, leaders: map[uint64]string{}, positions: map[int]domain.Revision{},
	}
}

func (w *witnessed) last() domain.Revision {
	w.mu.Lock()
	defer w.mu.Unlock()
	return domain.Revision(len(w.changes))
}

// learn compares a change with what others observed at its revision. The caller holds mu.
func (w *witnessed) learn(change domain.Change) error {
	switch known := int(change.Revision) - 1; {
	case known == len(w.changes):
		w.changes = append(w.changes, change)
	case known > len(w.changes):
		return fmt.Errorf("revision %d was observed before revision %d", change.Revision, len(w.changes)+1)
	case !sameChange(w.changes[known], change):
		return fmt.Errorf("the change at revision %d is %s, but was %s before or on another instance", change.Revision, describe(change), describe(w.changes[known]))
	}
	return nil
}

func sameChange(a, b domain.Change) bool {
	return a.Revision == b.Revision && a.Effect == b.Effect && a.Reason == b.Reason && reflect.DeepEqual(a.Node, b.Node)
}

func describe(c domain.Change) string {
	return fmt.Sprintf("%s %s=%d", c.Effect, c.Node.ID, c.Node.Weight)
}

// watch checks every state that a process publishes, as long as it is alive.
func (h *story) watch(p *process) {
	var latest domain.Revision
	for {
		state, later := p.State()
		if p.dead.Load() {
			return // it may have been dead when it published this
		}
		if state.Leading {
			h.checkLeader(state.Term, p.instance.id)
		}
		if err := h.seen.compare(state.View, state.Applied, latest); err != nil {
			h.fail("%s: %v", p.instance.id, err)
			return
		}
		latest = state.View.Revision()
		select {
		case <-later:
		case <-p.stop:
			return
		}
	}
}

func (w *witnessed) compare(view domain.View, applied uint64, after domain.Revision) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes, ok := view.Since(after)
	if !ok {
		return fmt.Errorf("the view at revision %[2]d lacks the changes after revision %[1]d", after, view.Revision())
	}
	for _, change := range changes {
		if err := w.learn(change); err != nil {
			return err
		}
	}
	if known, ok := w.revisions[applied]; ok && known != view.Revision() {
		return fmt.Errorf("revision after entry %d = %d, want %d as on other instances", applied, view.Revision(), known)
	}
	w.revisions[applied] = view.Revision()
	return nil
}

func (h *story) checkLeader(term uint64, id string) {
	w := &h.seen
	w.mu.Lock()
	known, ok := w.leaders[term]
	w.leaders[term] = id
	w.term = max(w.term, term)
	w.mu.Unlock()
	if !ok {
		h.trace("%s leads term %d", id, term)
	}
	if ok && known != id {
		h.fail("%s and %s both led term %d", known, id, term)
	}
}

// checkSure checks that a process that is sure of its leadership is right. It checks
// nothing if instances disagree on how long a leader may be silent.
func (h *story) checkSure(p *process, sure bool) {
	state, _ := p.State()
	h.seen.mu.Lock()
	latest := h.seen.term
	h.seen.mu.Unlock()
	if sure && latest > state.Term && !h.plan.believes && !p.dead.Load() {
		h.fail("%s is sure that it leads in term %d, but term %d has a leader", p.instance.id, state.Term, latest)
	}
}

// alike returns nil if all members are in the same state and have applied all entries.
func (h *story) alike() error {
	leader := h.leader()
	if leader == nil {
		return errors.New("no instance leads")
	}
	want, _ := leader.alive().State()
	if last := h.seen.last(); want.View.Revision() != last {
		return fmt.Errorf("leader %s is at revision %d, but revision %d was observed", leader.id, want.View.Revision(), last)
	}
	for _, member := range want.Roster.Instances() {
		p := h.at(member.RaftAddress)
		if p == nil {
			return fmt.Errorf("%s is down", member.ID)
		}
		have, _ := p.State()
		switch {
		case have.Applied != want.Applied || have.View.Revision() != want.View.Revision():
			return fmt.Errorf("%s has applied entry %d at revision %d, and leader %s entry %d at revision %d", member.ID, have.Applied, have.View.Revision(), leader.id, want.Applied, want.View.Revision())
		case !have.Roster.Equal(want.Roster):
			return fmt.Errorf("members according to %s = %v, and according to leader %s = %v", member.ID, have.Roster, leader.id, want.Roster)
		case !reflect.DeepEqual(contents(have.View), contents(want.View)):
			h.fail("%s and %s hold different nodes at revision %d", member.ID, leader.id, want.View.Revision())
		}
	}
	return nil
}

func contents(v domain.View) []domain.CacheNode {
	var nodes []domain.CacheNode
	for n := range v.Nodes() {
		nodes = append(nodes, *n)
	}
	return nodes
}
