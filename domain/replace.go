package domain

import (
	"fmt"
	"slices"
)

// Backup is a registry as it was at one revision, in this cluster or in another one.
type Backup struct {
	ClusterID string
	Revision  Revision
	Nodes     *Replacement
}

// Replacement is a complete set of nodes that can replace all nodes of a registry. No
// two of its nodes have an id, an address or a slot in common. Like a Registry it is
// not safe for concurrent use, and the nodes that it hands out are never modified.
type Replacement struct {
	nodes []*CacheNode // in ascending order of their ids
	holdings
}

// NewReplacement returns a Replacement without nodes.
func NewReplacement() *Replacement {
	return &Replacement{holdings: newHoldings()}
}

// Nodes returns the nodes in ascending order of their ids.
func (p *Replacement) Nodes() []*CacheNode { return slices.Clip(p.nodes) }

// Add adds n, whose id must follow that of the node before. It refuses n if it conflicts
// with an earlier node, or if there is no room. Like RestoreRegistry it checks only what
// every registry relies on, because all replicas must decide alike, whatever rules their
// builds have for a single node: CheckStored checks those.
func (p *Replacement) Add(n *CacheNode) error {
	owner, taken := p.ownerOf(n.Address)
	switch {
	case len(p.nodes) > 0 && n.ID <= p.nodes[len(p.nodes)-1].ID:
		return invalid("id", "must come in ascending order: %q follows %q", n.ID, p.nodes[len(p.nodes)-1].ID)
	case taken:
		return fmt.Errorf("%w: %s is the address of node %q", ErrAddressInUse, n.Address, owner)
	case n.Slot < 0 || n.Slot >= MaxNodes:
		return invalid("slot", "must be from 0 to %d: %d", MaxNodes-1, n.Slot)
	case len(p.nodes) >= MaxNodes:
		return fmt.Errorf("%w: it holds %d nodes, the most it can", ErrRegistryFull, MaxNodes)
	case p.bytes+n.size() > MaxBytes:
		return fmt.Errorf("%w: its nodes take %d bytes, and %d is the most they can", ErrRegistryFull, p.bytes, MaxBytes)
	}
	if !p.claim(n) {
		return invalid("slot", "%d of pool %q is another node's already", n.Slot, n.Pool)
	}
	p.nodes = append(p.nodes, n)
	p.hold(n)
	return nil
}

// CheckStored reports what is wrong with a node as a registry stores it, including
// ExpiredFrom (InvalidError, joined). Replacement.Add checks its slot.
func CheckStored(n *CacheNode) error {
	if err := n.validate(); err != nil {
		return err
	}
	switch {
	case n.TTLSeconds < 0 || n.TTLSeconds > MaxTTLSeconds:
		return invalid("ttlSeconds", "must be from 0 to %d: %d", MaxTTLSeconds, n.TTLSeconds)
	case n.ExpiredFrom == "":
		return nil
	case n.State != Down || n.OnExpiry != DownOnExpiry || n.TTLSeconds == 0:
		return invalid("expiredFrom", "is only for a node that expiry made down")
	case n.ExpiredFrom != Active && n.ExpiredFrom != Draining:
		return invalid("expiredFrom", "must be active or draining: %q", n.ExpiredFrom)
	}
	return nil
}

// Replaced is what Registry.Replace did.
type Replaced struct {
	// Revision is the registry's revision afterwards.
	Revision Revision
	// Added, Updated, Removed and Unchanged are numbers of nodes.
	Added, Updated, Removed, Unchanged int
}

// Replace replaces all nodes of r by those of with, which get new revisions but keep
// everything else. Each node that this removes, adds or updates makes one change: first
// the removed nodes, then the others, both in ascending order of their ids. A node that
// is the same in both makes none. If expected is given and r is at another revision,
// Replace refuses (*Refusal) and changes nothing. It takes time linear in the number of
// nodes.
func (r *Registry) Replace(with *Replacement, expected *Revision) (Replaced, error) {
	if expected != nil && *expected != r.revision {
		return Replaced{}, &Refusal{
			Err:      fmt.Errorf("%w: the registry is at revision %d, not %d", ErrConditionFailed, r.revision, *expected),
			Revision: r.revision,
		}
	}
	known := r.nodes.list()
	replaced := Replaced{Removed: r.removeAllBut(with.nodes, known)}
	nodes := make([]*CacheNode, len(with.nodes))
	for i, wanted := range with.nodes {
		// Both lists are in ascending order, so one pass merges them.
		for len(known) > 0 && known[0].ID < wanted.ID {
			known = known[1:]
		}
		switch {
		case len(known) == 0 || known[0].ID != wanted.ID:
			nodes[i] = r.replaced(wanted, nil)
			replaced.Added++
		case known[0].storedAs(wanted):
			nodes[i] = known[0]
			replaced.Unchanged++
		default:
			nodes[i] = r.replaced(wanted, known[0])
			replaced.Updated++
		}
	}
	r.nodes, r.holdings = indexOf(nodes), with.clone()
	replaced.Revision = r.revision
	return replaced, nil
}

// removeAllBut appends the removal of each known node that is not wanted to the history.
func (r *Registry) removeAllBut(wanted, known []*CacheNode) (removed int) {
	for _, n := range known {
		for len(wanted) > 0 && wanted[0].ID < n.ID {
			wanted = wanted[1:]
		}
		if len(wanted) > 0 && wanted[0].ID == n.ID {
			continue
		}
		r.revision++
		r.history.append(Change{Revision: r.revision, Effect: Removed, Reason: ByRestore, Node: n, Previous: n})
		removed++
	}
	return removed
}

// replaced appends to the history that wanted is added, or replaces known if that is not
// nil. It returns the node as r is to hold it.
func (r *Registry) replaced(wanted, known *CacheNode) *CacheNode {
	r.revision++
	n := *wanted
	n.CreatedRevision, n.Revision = r.revision, r.revision
	change := Change{Revision: r.revision, Effect: Added, Reason: ByRestore, Node: &n}
	if known != nil {
		n.CreatedRevision = known.CreatedRevision
		change.Effect, change.Previous = Updated, known
	}
	r.history.append(change)
	return &n
}

// storedAs is sameAs that also compares Slot and ExpiredFrom, which the registry sets.
func (n *CacheNode) storedAs(o *CacheNode) bool {
	return n.sameAs(o) && n.Slot == o.Slot && n.ExpiredFrom == o.ExpiredFrom
}
