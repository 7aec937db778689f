package domain_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// model is the registry in its simplest form: it searches all nodes for everything, tries a
// batch on a copy, and keeps every change for ever.
type model struct {
	nodes   map[string]domain.CacheNode
	changes []domain.Change
}

func newModel() *model { return &model{nodes: map[string]domain.CacheNode{}} }

func (m *model) clone() *model {
	return &model{nodes: maps.Clone(m.nodes), changes: slices.Clone(m.changes)}
}

// apply returns only the reason of a refusal, where the registry adds details.
func (m *model) apply(cmd domain.Command) ([]domain.Change, error) {
	switch cmd := cmd.(type) {
	case domain.Batch:
		var changes []domain.Change
		trial := m.clone()
		for i, one := range cmd.Commands {
			change, reason := trial.one(one)
			if reason != nil {
				return nil, m.refusal(one, fmt.Errorf("changes[%d]: %w", i, reason))
			}
			changes = append(changes, change)
		}
		*m = *trial
		return changes, nil
	case domain.Expire:
		var changes []domain.Change
		for _, meant := range cmd.Nodes {
			if change, did := m.expire(meant); did {
				changes = append(changes, change)
			}
		}
		return changes, nil
	}
	change, reason := m.one(cmd)
	if reason != nil {
		return nil, m.refusal(cmd, reason)
	}
	return []domain.Change{change}, nil
}

func (m *model) refusal(cmd domain.Command, reason error) error {
	refusal := &domain.Refusal{Err: reason, Revision: m.revision()}
	if known, found := m.nodes[idOf(cmd)]; found {
		refusal.Current = &known
	}
	return refusal
}

func (m *model) one(cmd domain.Command) (domain.Change, error) {
	switch cmd := cmd.(type) {
	case domain.Register:
		return m.register(cmd.Node, cmd.If)
	case domain.Deregister:
		return m.deregister(cmd)
	case domain.Revive:
		return m.revive(cmd.ID)
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
	n.ExpiredFrom = ""
	if !found {
		n.CreatedRevision, n.Slot = m.revision()+1, m.lowestFree(n.Pool, "")
		return m.put(n, nil), nil
	}
	n.CreatedRevision, n.Slot = known.CreatedRevision, known.Slot
	if n.Pool != known.Pool {
		n.Slot = m.lowestFree(n.Pool, n.ID)
	}
	same := n
	same.Revision, same.ExpiredFrom = known.Revision, known.ExpiredFrom
	if reflect.DeepEqual(same, known) {
		return m.unchanged(known), nil
	}
	return m.put(n, &known), nil
}

func (m *model) deregister(cmd domain.Deregister) (domain.Change, error) {
	known, found := m.nodes[cmd.ID]
	switch {
	case !found:
		return domain.Change{}, domain.ErrNoSuchNode
	case !m.holds(cmd.ID, cmd.If):
		return domain.Change{}, domain.ErrConditionFailed
	}
	return m.remove(known, domain.ByRequest), nil
}

func (m *model) revive(id string) (domain.Change, error) {
	known, found := m.nodes[id]
	switch {
	case !found:
		return domain.Change{}, domain.ErrNoSuchNode
	case known.ExpiredFrom == "":
		return m.unchanged(known), nil
	}
	revived := known
	revived.State, revived.ExpiredFrom = known.ExpiredFrom, ""
	return m.put(revived, &known), nil
}

func (m *model) expire(meant domain.NodeAt) (domain.Change, bool) {
	known, found := m.nodes[meant.ID]
	if !found || known.Revision != meant.Revision || known.TTLSeconds == 0 {
		return domain.Change{}, false
	}
	if known.OnExpiry == domain.RemoveOnExpiry {
		return m.remove(known, domain.ByExpiry), true
	}
	if known.State == domain.Down {
		return domain.Change{}, false
	}
	down := known
	down.State, down.ExpiredFrom = domain.Down, known.State
	m.put(down, &known)
	last := &m.changes[len(m.changes)-1]
	last.Reason = domain.ByExpiry
	return *last, true
}

// put stores n under its id; before is the node until then, or nil.
func (m *model) put(n domain.CacheNode, before *domain.CacheNode) domain.Change {
	n.Revision = m.revision() + 1
	m.nodes[n.ID] = n
	if before == nil {
		return m.made(domain.Change{Effect: domain.Added, Reason: domain.ByRequest, Node: &n})
	}
	return m.made(domain.Change{Effect: domain.Updated, Reason: domain.ByRequest, Node: &n, Previous: before})
}

func (m *model) remove(known domain.CacheNode, why domain.Reason) domain.Change {
	delete(m.nodes, known.ID)
	return m.made(domain.Change{Effect: domain.Removed, Reason: why, Node: &known, Previous: &known})
}

func (m *model) made(c domain.Change) domain.Change {
	c.Revision = m.revision() + 1
	m.changes = append(m.changes, c)
	return c
}

func (m *model) unchanged(known domain.CacheNode) domain.Change {
	return domain.Change{Revision: m.revision(), Effect: domain.Unchanged, Reason: domain.ByRequest, Node: &known, Previous: &known}
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
