package domain_test

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// model is the registry in its plainest form: it looks at all nodes for
// everything, and keeps every change for ever.
type model struct {
	nodes   map[string]domain.CacheNode
	changes []domain.Change
}

func newModel() *model { return &model{nodes: map[string]domain.CacheNode{}} }

func (m *model) apply(cmd domain.Command) (domain.Change, error) {
	switch cmd := cmd.(type) {
	case domain.Register:
		return m.register(cmd.Node, cmd.If)
	case domain.Deregister:
		known, found := m.nodes[cmd.ID]
		if !found {
			return domain.Change{}, domain.ErrNoSuchNode
		}
		if !m.holds(cmd.ID, cmd.If) {
			return domain.Change{}, domain.ErrConditionFailed
		}
		delete(m.nodes, cmd.ID)
		return m.made(domain.Change{Effect: domain.Removed, Node: &known, Previous: &known}), nil
	}
	panic("unknown command")
}

func (m *model) register(n domain.CacheNode, condition domain.Condition) (domain.Change, error) {
	known, found := m.nodes[n.ID]
	if !m.holds(n.ID, condition) {
		return domain.Change{}, domain.ErrConditionFailed
	}
	for _, other := range m.nodes {
		if other.ID != n.ID && strings.EqualFold(other.Address, n.Address) {
			return domain.Change{}, domain.ErrAddressInUse
		}
	}
	n.CreatedRevision, n.Revision = m.revision()+1, m.revision()+1
	if !found {
		n.Slot = m.lowestFree(n.Pool, "")
		m.nodes[n.ID] = n
		return m.made(domain.Change{Effect: domain.Added, Node: &n}), nil
	}
	n.CreatedRevision, n.Slot = known.CreatedRevision, known.Slot
	if n.Pool != known.Pool {
		n.Slot = m.lowestFree(n.Pool, n.ID)
	}
	same := n
	same.Revision = known.Revision
	if n.Address == known.Address && n.Pool == known.Pool && n.Weight == known.Weight && n.Zone == known.Zone &&
		n.State == known.State && maps.Equal(n.Labels, known.Labels) {
		return domain.Change{Revision: m.revision(), Effect: domain.Unchanged, Reason: domain.ByRequest, Node: &same, Previous: &known}, nil
	}
	m.nodes[n.ID] = n
	return m.made(domain.Change{Effect: domain.Updated, Node: &n, Previous: &known}), nil
}

func (m *model) made(c domain.Change) domain.Change {
	c.Revision, c.Reason = m.revision()+1, domain.ByRequest
	m.changes = append(m.changes, c)
	return c
}

func (m *model) revision() domain.Revision { return domain.Revision(len(m.changes)) }

func (m *model) holds(id string, condition domain.Condition) bool {
	known, found := m.nodes[id]
	switch condition.Expect {
	case domain.Absent:
		return !found
	case domain.Present:
		return found
	case domain.AtRevision:
		return found && known.Revision == condition.Revision
	}
	return true
}

func (m *model) lowestFree(pool, except string) int {
	for slot := 0; ; slot++ {
		taken := false
		for _, n := range m.nodes {
			taken = taken || n.ID != except && n.Pool == pool && n.Slot == slot
		}
		if !taken {
			return slot
		}
	}
}

func (m *model) contents() contents {
	c := contents{Revision: m.revision(), History: slices.Clone(m.changes)}
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		c.Nodes = append(c.Nodes, m.nodes[id])
	}
	return c
}

// commands draws commands over few ids, addresses and pools, so that they meet.
func commands() *rapid.Generator[[]domain.Command] {
	ids := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})
	conditions := rapid.OneOf(
		rapid.Just(domain.Condition{}),
		rapid.Just(domain.Condition{}),
		rapid.Just(domain.Condition{Expect: domain.Absent}),
		rapid.Just(domain.Condition{Expect: domain.Present}),
		rapid.Map(rapid.Uint64Range(0, 40), func(r uint64) domain.Condition {
			return domain.Condition{Expect: domain.AtRevision, Revision: domain.Revision(r)}
		}),
	)
	one := rapid.Custom(func(t *rapid.T) domain.Command {
		id, condition := ids.Draw(t, "id"), conditions.Draw(t, "condition")
		if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
			return domain.Deregister{ID: id, If: condition}
		}
		where := rapid.SampledFrom([]string{"h:1", "H:1", "h:2", "h:3", "h:4", "h:5", "h:6", "h:7", "h:8", "h:9"})
		n := node(t, id, where.Draw(t, "address"),
			inPool(rapid.SampledFrom([]string{"p", "q"}).Draw(t, "pool")),
			weighing(rapid.IntRange(0, 1).Draw(t, "weight")))
		if rapid.Bool().Draw(t, "labelled") {
			n.Labels = map[string]string{"k": "v"}
		}
		return domain.Register{Node: n, If: condition}
	})
	return rapid.SliceOfN(one, 0, 80)
}

// outcome is what Apply answered, as values that can be compared.
type outcome struct {
	Change  domain.Change
	Error   string
	Refused domain.Revision
	Current *domain.CacheNode
}

func outcomeOf(change domain.Change, err error) outcome {
	o := outcome{Change: change}
	var refusal *domain.Refusal
	if errors.As(err, &refusal) {
		o.Error, o.Refused, o.Current = refusal.Error(), refusal.Revision, refusal.Current
	}
	return o
}
