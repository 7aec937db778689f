package simulation

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// Every answer names the revision at which it was given, so the observed changes
// are the only candidate for an order of all operations. One walk checks that
// order: the answer of each operation must be true at its revision, and revisions
// must not contradict the order of calls and answers. Porcupine searches for an
// order independently, node by node.

// contradictions returns everything that is wrong with the records, given all changes.
func contradictions(changes []domain.Change, records []*record) []string {
	c := newChecker(changes)
	c.order(records)
	for _, r := range records {
		switch {
		case r.read != nil:
			c.read(r)
		case r.outcome == done:
			c.done(r)
		case r.outcome == refused:
			c.refused(r)
		case r.outcome == notDone:
			c.notDone(r)
		case r.outcome == unknown:
			c.unknown(r)
		}
	}
	c.origins(records)
	return c.found
}

type checker struct {
	changes []domain.Change
	byValue map[int]domain.Change
	states  []map[string]*domain.CacheNode // by revision
	floor   map[*record]domain.Revision    // the highest revision known to any client at its call
	found   []string
}

func newChecker(changes []domain.Change) *checker {
	c := &checker{changes: changes, byValue: map[int]domain.Change{}, floor: map[*record]domain.Revision{}}
	state := map[string]*domain.CacheNode{}
	c.states = append(c.states, state)
	for _, change := range changes {
		next := maps.Clone(state)
		if change.Effect == domain.Removed {
			delete(next, change.Node.ID)
		} else {
			next[change.Node.ID] = change.Node
			if before, twice := c.byValue[change.Node.Weight]; twice {
				c.found = append(c.found, fmt.Sprintf("%s took effect twice, at revisions %d and %d", describe(change), before.Revision, change.Revision))
			}
			c.byValue[change.Node.Weight] = change
		}
		state = next
		c.states = append(c.states, state)
	}
	return c
}

func (c *checker) wrong(r *record, format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf("%v: ", r)+fmt.Sprintf(format, args...))
}

// revision returns the revision that the answer of r proves to have been reached.
func (r *record) revision() domain.Revision {
	switch {
	case r.outcome == done && r.read != nil:
		return r.view.Revision()
	case r.outcome == done:
		return r.changes[len(r.changes)-1].Revision
	case r.outcome == refused:
		return r.refusal.Revision
	}
	return 0
}

// order computes the floor of each call.
func (c *checker) order(records []*record) {
	answered := slices.SortedFunc(slices.Values(records), func(a, b *record) int { return int(a.ends - b.ends) })
	called := slices.SortedFunc(slices.Values(records), func(a, b *record) int { return int(a.call - b.call) })
	floor := domain.Revision(0)
	for _, r := range called {
		for len(answered) > 0 && answered[0].ends < r.call {
			floor = max(floor, answered[0].revision())
			answered = answered[1:]
		}
		c.floor[r] = floor
	}
}

func (c *checker) state(r *record, revision domain.Revision) map[string]*domain.CacheNode {
	if int(revision) >= len(c.states) {
		c.wrong(r, "no instance was ever at revision %d: an acknowledged write is lost", revision)
		return nil
	}
	return c.states[revision]
}

func (c *checker) read(r *record) {
	if r.outcome != done {
		return
	}
	state := c.state(r, r.view.Revision())
	if state == nil {
		return
	}
	least := r.read.AtLeast
	if r.linearizable() {
		least = c.floor[r]
	}
	if r.view.Revision() < least {
		c.wrong(r, "the read is stale: revision %d was known before it began", least)
	}
	if r.view.Len() != len(state) {
		c.wrong(r, "the view has %d nodes, want %d as at that revision", r.view.Len(), len(state))
	}
	for n := range r.view.Nodes() {
		if want := state[n.ID]; want == nil || want.Revision != n.Revision || want.Weight != n.Weight {
			c.wrong(r, "node %s differs from its state at that revision", n.ID)
		}
	}
}

func (c *checker) done(r *record) {
	if len(r.changes) != len(r.edits) {
		c.wrong(r, "the write made %d changes, want %d", len(r.changes), len(r.edits))
		return
	}
	last := r.changes[0].Revision
	for i, change := range r.changes {
		if c.state(r, change.Revision) == nil {
			return
		}
		e := r.edits[i]
		if change.Effect == domain.Unchanged {
			c.wrong(r, "the answer says that nothing changed")
			continue
		}
		if have := c.changes[change.Revision-1]; !sameChange(have, change) {
			c.wrong(r, "the answer says %s, but the change at revision %d is %s", describe(change), change.Revision, describe(have))
		}
		if change.Node.ID != e.node || !e.remove && change.Node.Weight != e.value {
			c.wrong(r, "the answer says %s, which is not what was asked", describe(change))
		}
		if change.Revision <= c.floor[r] {
			c.wrong(r, "the write took effect before it was called: revision %d was known by then", c.floor[r])
		}
		if change.Revision > last+1 {
			c.wrong(r, "another change came between the changes of the batch, before revision %d", change.Revision)
		}
		last = change.Revision
		if !holds(e, c.states[change.Revision-1]) {
			c.wrong(r, "the write was done although its condition did not hold")
		}
	}
}

// holds reports whether the condition of an edit holds in a state.
func holds(e edit, state map[string]*domain.CacheNode) bool {
	node := state[e.node]
	switch {
	case e.remove && node == nil:
		return false
	case e.when.Expect == domain.Absent:
		return node == nil
	case e.when.Expect == domain.Present:
		return node != nil
	case e.when.Expect == domain.AtRevision:
		return node != nil && node.Revision == e.when.Revision
	}
	return true
}

func (c *checker) refused(r *record) {
	state := c.state(r, r.refusal.Revision)
	if state == nil {
		return
	}
	if r.refusal.Revision < c.floor[r] {
		c.wrong(r, "the write was refused at revision %d, although revision %d was known before", r.refusal.Revision, c.floor[r])
	}
	if len(r.edits) == 1 && holds(r.edits[0], state) {
		c.wrong(r, "the write was refused although its condition held at revision %d", r.refusal.Revision)
	}
	c.notDone(r)
}

// notDone checks that a write whose client was told that it did not happen did not happen.
func (c *checker) notDone(r *record) {
	for _, e := range r.edits {
		if change, happened := c.byValue[e.value]; happened && !e.remove {
			c.wrong(r, "the write was reported as not done, but took effect at revision %d", change.Revision)
		}
	}
}

func (c *checker) unknown(r *record) {
	happened := 0
	puts := 0
	for _, e := range r.edits {
		if e.remove {
			continue
		}
		puts++
		change, ok := c.byValue[e.value]
		if !ok {
			continue
		}
		happened++
		if change.Revision <= c.floor[r] {
			c.wrong(r, "the write took effect before it was called, at revision %d", change.Revision)
		}
	}
	if happened > 0 && happened < puts {
		c.wrong(r, "only a part of the batch took effect")
	}
}

// origins checks that every change was written by a client.
func (c *checker) origins(records []*record) {
	written := map[int]string{}
	for _, r := range records {
		for _, e := range r.edits {
			if !e.remove {
				written[e.value] = e.node
			}
		}
	}
	for _, change := range c.changes {
		if written[change.Node.Weight] != change.Node.ID {
			c.found = append(c.found, fmt.Sprintf("the change at revision %d, %s, was not written by any client", change.Revision, describe(change)))
		}
	}
}

func (r *record) linearizable() bool { return r.read.Source != 2 || r.local }

// operations returns the records in the form that porcupine takes. It leaves out
// writes with an unknown outcome that nobody ever saw: they need not have happened,
// and each would double the search.
func operations(records []*record, changes []domain.Change) []porcupine.Operation {
	seen := map[int]bool{}
	for _, change := range changes {
		seen[change.Node.Weight] = true
	}
	var all []porcupine.Operation
	for _, r := range records {
		add := func(in history.Input, out history.Output) {
			ends := r.ends
			if out.Unknown {
				ends = history.Never
			}
			all = append(all, porcupine.Operation{ClientId: r.client, Input: in, Call: r.call, Output: out, Return: ends})
		}
		switch {
		case r.outcome == notDone:
		case r.read != nil && r.linearizable():
			for n := range nodesInUse {
				id := fmt.Sprintf("n%d", n)
				node, present := r.view.Node(id)
				out := history.Output{Present: present}
				if present {
					out.Value = node.Weight
				}
				add(history.Input{Kind: history.Get, Node: id}, out)
			}
		case r.read == nil:
			writes(r, seen, add)
		}
	}
	return all
}

// writes splits a batch into its edits, and leaves out conditions that the model does not know.
func writes(r *record, seen map[int]bool, add func(history.Input, history.Output)) {
	for _, e := range r.edits {
		in := history.Input{Kind: history.Put, Node: e.node, Value: e.value}
		plain := e.when.Expect == domain.Anything && len(r.edits) == 1
		switch {
		case e.remove:
			in.Kind = history.Remove
		case e.when.Expect == domain.Absent && len(r.edits) == 1:
			in.Kind, plain = history.PutIfAbsent, true
		}
		switch {
		case r.outcome == unknown && !e.remove && !seen[e.value]:
		case r.outcome == unknown:
			add(in, history.Output{Unknown: true})
		case r.outcome == done:
			add(in, history.Output{Present: in.Kind == history.Remove})
		case plain:
			add(in, history.Output{Present: in.Kind == history.PutIfAbsent})
		}
	}
}

// searchTime bounds porcupine's search: many unknown outcomes mean many possible orders.
const searchTime = 2 * time.Second

// check returns everything that is wrong with a history, and whether porcupine
// finished its search.
func (h *story) check() (found []string, searched bool) {
	found = append(found, h.failures...)
	found = append(found, contradictions(h.seen.changes, h.records)...)
	result := porcupine.CheckOperationsTimeout(history.Model, operations(h.records, h.seen.changes), searchTime)
	if result == porcupine.Illegal {
		found = append(found, "porcupine finds no order of the operations in which the answers are possible")
	}
	return found, result != porcupine.Unknown
}
