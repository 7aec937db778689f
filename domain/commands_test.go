package domain_test

import (
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

var someIDs = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})

// commands draws commands over few ids, addresses and pools, so that they collide. It
// tracks a model, so that many commands name nodes that exist.
func commands() *rapid.Generator[[]domain.Command] {
	return rapid.Custom(func(t *rapid.T) []domain.Command {
		m := newModel()
		one := rapid.Custom(func(t *rapid.T) domain.Command {
			cmd := drawCommand(t, m)
			_, _ = m.apply(cmd) // refusals are part of what is drawn
			return cmd
		})
		// On its own, rapid draws short lists, in which few commands collide.
		least := rapid.SampledFrom([]int{0, 30, 60}).Draw(t, "at least")
		return rapid.SliceOfN(one, least, 80).Draw(t, "commands")
	})
}

func drawCommand(t *rapid.T, m *model) domain.Command {
	kinds := rapid.SampledFrom([]string{"edit", "edit", "edit", "edit", "batch", "expire", "expire", "revive"})
	switch kinds.Draw(t, "kind") {
	case "batch":
		return drawBatch(t, m)
	case "expire":
		return domain.Expire{Nodes: rapid.SliceOfN(nodesAt(m), 0, 5).Draw(t, "nodes")}
	case "revive":
		return domain.Revive{ID: drawID(t, m, func(n domain.CacheNode) bool { return n.ExpiredFrom != "" })}
	}
	return drawEdit(t, m)
}

// drawBatch draws batches that succeed about as often as batches that may be refused.
func drawBatch(t *rapid.T, m *model) domain.Batch {
	trial, possible := m.clone(), []domain.Command(nil)
	one := rapid.Custom(func(t *rapid.T) domain.Command {
		cmd := drawEdit(t, trial)
		if _, reason := trial.one(cmd); reason == nil {
			possible = append(possible, cmd)
		}
		return cmd
	})
	all := rapid.SliceOfN(one, 1, 6).Draw(t, "batch")
	if len(possible) > 0 && rapid.Bool().Draw(t, "possible") {
		return domain.Batch{Commands: possible}
	}
	return domain.Batch{Commands: all}
}

// drawEdit draws a command that may stand in a batch.
func drawEdit(t *rapid.T, m *model) domain.Command {
	kind := rapid.IntRange(0, 4).Draw(t, "edit")
	if kind == 0 {
		id := drawID(t, m, func(domain.CacheNode) bool { return true })
		return domain.Deregister{ID: id, If: drawCondition(t, m, id)}
	}
	id := someIDs.Draw(t, "id")
	condition := drawCondition(t, m, id)
	if known, found := m.nodes[id]; found && kind == 1 {
		// The node is unchanged, but for the fields that a client can't set.
		known.Slot, known.Revision, known.ExpiredFrom = 77, 77, domain.Draining
		return domain.Register{Node: known, If: condition}
	}
	return domain.Register{Node: drawNode(t, id), If: condition}
}

func drawNode(t *rapid.T, id string) domain.CacheNode {
	where := rapid.SampledFrom([]string{id + ":1", id + ":1", "h:1", "H:1", "h:2", "h:3", "h:4"}).Draw(t, "address")
	n := node(t, id, where,
		inPool(rapid.SampledFrom([]string{"p", "q"}).Draw(t, "pool")),
		weighing(rapid.IntRange(0, 1).Draw(t, "weight")),
		inState(rapid.SampledFrom([]domain.State{domain.Active, domain.Active, domain.Draining, domain.Down}).Draw(t, "state")))
	if rapid.Bool().Draw(t, "leased") {
		n.TTLSeconds = rapid.IntRange(1, 2).Draw(t, "ttlSeconds")
	}
	n.OnExpiry = rapid.SampledFrom([]domain.OnExpiry{domain.RemoveOnExpiry, domain.DownOnExpiry}).Draw(t, "onExpiry")
	n.Zone = rapid.SampledFrom([]string{"", "z"}).Draw(t, "zone")
	n.Labels = rapid.SampledFrom([]map[string]string{nil, {"k": "v"}, {"k": "w"}, {"k": "v", "l": ""}}).Draw(t, "labels")
	return n
}

func drawCondition(t *rapid.T, m *model, id string) domain.Condition {
	kinds := rapid.SampledFrom([]domain.Expectation{
		domain.Anything, domain.Anything, domain.Anything, domain.Anything, domain.Anything, domain.Absent, domain.Present, domain.AtRevision,
	})
	condition := domain.Condition{Expect: kinds.Draw(t, "condition")}
	if condition.Expect == domain.AtRevision {
		condition.Revision = drawRevision(t, m, id)
	}
	return condition
}

// drawID draws in most cases the id of a node for which interesting is true.
func drawID(t *rapid.T, m *model, interesting func(domain.CacheNode) bool) string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if interesting(m.nodes[id]) {
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 && rapid.IntRange(0, 3).Draw(t, "another id") < 3 {
		return rapid.SampledFrom(ids).Draw(t, "id")
	}
	return someIDs.Draw(t, "id")
}

// drawRevision draws in most cases the revision of the node.
func drawRevision(t *rapid.T, m *model, id string) domain.Revision {
	known, found := m.nodes[id]
	if found && rapid.IntRange(0, 3).Draw(t, "another revision") < 3 {
		return known.Revision
	}
	return domain.Revision(rapid.Uint64Range(0, 60).Draw(t, "revision"))
}

func nodesAt(m *model) *rapid.Generator[domain.NodeAt] {
	return rapid.Custom(func(t *rapid.T) domain.NodeAt {
		id := drawID(t, m, func(n domain.CacheNode) bool { return n.TTLSeconds > 0 })
		return domain.NodeAt{ID: id, Revision: drawRevision(t, m, id)}
	})
}
