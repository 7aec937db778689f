package domain

import (
	"fmt"
	"slices"
)

// Backup is a registry as it was once, here or in another cluster.
type Backup struct {
	ClusterID string
	Revision  Revision
	Nodes     *Replacement
}

// Replacement is what is to take the place of all nodes of a registry: nodes that
// fit together, in ascending order of their ids. Like a Registry it is not safe
// for concurrent use, and what it hands out never changes.
type Replacement struct {
	nodes []*CacheNode
	holdings
}

// NewReplacement gives one without nodes.
func NewReplacement() *Replacement {
	return &Replacement{holdings: newHoldings()}
}

// Nodes gives the nodes in ascending order of their ids.
func (p *Replacement) Nodes() []*CacheNode { return slices.Clip(p.nodes) }

// Add takes one more node, or says why it can't be beside those before it. Like
// RestoreRegistry it asks only for what every registry needs: every replica must
// come to the same answer, whatever its build thinks of a node. See CheckStored.
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

// CheckStored says whether a registry can hold n as it is, with what is the
// registry's own (InvalidError, joined). Its slot is judged by Replacement.Add.
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

// Replaced is what a replacement did to a registry, by the number of nodes.
type Replaced struct {
	// Revision is the registry's revision afterwards.
	Revision                           Revision
	Added, Updated, Removed, Unchanged int
}

// Replace makes r hold the nodes of with and no others, all of them as they are
// there but for their revisions, which are those of r. A node that is there
// already, the same, makes no change. Otherwise each makes one: first those that
// are removed, then the others, in ascending order of their ids. Where expected is
// given and r is at another revision, it refuses (*Refusal) and changes nothing. It
// takes time linear in the number of nodes.
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
		// Both ascend, so one walk over them meets every id once.
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

// removeAllBut notes the removal of those that are known and not wanted.
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

// replaced notes that wanted takes the place of known, if that is not nil, and
// gives it as r holds it.
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

// storedAs is sameAs with what the registry adds, but for the revisions.
func (n *CacheNode) storedAs(o *CacheNode) bool {
	return n.sameAs(o) && n.Slot == o.Slot && n.ExpiredFrom == o.ExpiredFrom
}
