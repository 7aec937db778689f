package domain

import (
	"fmt"
	"slices"
	"strings"
)

// The limits of a registry: the number of its nodes, and the sum of their sizes in bytes.
const (
	MaxNodes = 250_000
	MaxBytes = 256 << 20
)

// Registry is the replicated state machine: the set of cache nodes, its revision and
// its history. It is deterministic: the same commands in the same order make the same
// registry on every replica. It is not safe for concurrent use; its views are.
type Registry struct {
	revision Revision
	nodes    index
	holdings
	history history
}

// NewRegistry returns the empty registry at revision 0.
func NewRegistry() *Registry {
	return &Registry{nodes: indexOf(nil), holdings: newHoldings()}
}

// View returns the registry as it is now, in constant time. Later changes copy what they
// modify, once per view: one view after a group of changes costs less than one after each.
func (r *Registry) View() View {
	// The history is clipped, so that a reader who appends to it copies it, instead
	// of writing where the registry will write its next change.
	return View{revision: r.revision, nodes: r.nodes.view(), changes: slices.Clip(r.history.changes)}
}

// Apply carries out all of cmd, or refuses it (*Refusal) and changes nothing. It
// returns what cmd did, in order: one change for each command of a Batch, one for each
// node that an Expire did expire, and exactly one for any other command.
// Each change takes at most logarithmic time in the number of nodes, except for the
// first one after a View, which copies one pointer for each thousand nodes.
func (r *Registry) Apply(cmd Command) ([]Change, error) {
	var changes []Change
	switch cmd := cmd.(type) {
	case Batch:
		var err error
		if changes, err = r.batch(cmd); err != nil {
			return nil, err
		}
	case Expire:
		changes = r.expire(cmd)
	default:
		change, err := r.apply(cmd)
		if err != nil {
			return nil, r.refusal(cmd, err)
		}
		changes = []Change{change}
	}
	for _, change := range changes {
		if change.Effect != Unchanged {
			r.history.append(change)
		}
	}
	return changes, nil
}

// apply carries out or refuses one Register, Deregister or Revive. It leaves the history
// to its caller.
func (r *Registry) apply(cmd Command) (Change, error) {
	switch cmd := cmd.(type) {
	case Register:
		return r.register(cmd)
	case Deregister:
		return r.deregister(cmd)
	case Revive:
		return r.revive(cmd)
	}
	// Only this package defines commands, so this is a bug. A replica that skipped a
	// command would diverge from the others.
	panic(fmt.Sprintf("domain: unknown command %T", cmd))
}

func (r *Registry) refusal(cmd Command, err error) *Refusal {
	refusal := &Refusal{Err: err, Revision: r.revision}
	switch cmd := cmd.(type) {
	case Register:
		refusal.Current = r.nodes.get(cmd.Node.ID)
	case Deregister:
		refusal.Current = r.nodes.get(cmd.ID)
	}
	return refusal
}

// batch carries out one command after the other. If one is refused, it undoes those
// before it.
func (r *Registry) batch(cmd Batch) ([]Change, error) {
	revision := r.revision
	changes := make([]Change, 0, len(cmd.Commands))
	for i, one := range cmd.Commands {
		change, err := r.apply(one)
		if err == nil {
			changes = append(changes, change)
			continue
		}
		for _, change := range slices.Backward(changes) {
			r.undo(&change)
		}
		r.revision = revision
		return nil, r.refusal(one, fmt.Errorf("changes[%d]: %w", i, err))
	}
	return changes, nil
}

// undo reverts change, which must be the latest one. It leaves the revision to its caller.
func (r *Registry) undo(change *Change) {
	switch change.Effect {
	case Added:
		r.nodes.remove(change.Node.ID)
		r.letGo(change.Node)
		r.release(change.Node)
	case Updated:
		r.nodes.replace(change.Previous)
		r.letGo(change.Node)
		r.release(change.Node)
		r.hold(change.Previous)
		r.claim(change.Previous)
	case Removed:
		r.nodes.add(change.Previous)
		r.hold(change.Previous)
		r.claim(change.Previous)
	}
}

// expire skips nodes that have changed since, and those that can't expire any more.
func (r *Registry) expire(cmd Expire) []Change {
	changes := make([]Change, 0, len(cmd.Nodes))
	for _, overdue := range cmd.Nodes {
		known := r.nodes.get(overdue.ID)
		if known == nil || known.Revision != overdue.Revision || !known.Expires() {
			continue
		}
		var change Change
		if known.OnExpiry == DownOnExpiry {
			down := *known
			down.State, down.ExpiredFrom = Down, known.State
			change = r.updated(known, down)
		} else {
			change = r.removed(known)
		}
		change.Reason = ByExpiry
		changes = append(changes, change)
	}
	return changes
}

// revive does not check MaxBytes. A node that expired may be a few bytes smaller than
// before; it may always grow back by these.
func (r *Registry) revive(cmd Revive) (Change, error) {
	known := r.nodes.get(cmd.ID)
	if known == nil {
		return Change{}, fmt.Errorf("%w: %q", ErrNoSuchNode, cmd.ID)
	}
	if known.ExpiredFrom == "" {
		return r.unchanged(known), nil
	}
	revived := *known
	revived.State, revived.ExpiredFrom = known.ExpiredFrom, ""
	return r.updated(known, revived), nil
}

func (r *Registry) register(cmd Register) (Change, error) {
	wanted := &cmd.Node
	wanted.ExpiredFrom = ""
	known := r.nodes.get(wanted.ID)
	if err := cmd.If.check(wanted.ID, known); err != nil {
		return Change{}, err
	}
	if known == nil || known.Address != wanted.Address {
		owner, taken := r.ownerOf(wanted.Address)
		if taken && owner != wanted.ID {
			return Change{}, fmt.Errorf("%w: %s is the address of node %q", ErrAddressInUse, wanted.Address, owner)
		}
	}
	if known != nil && known.sameAs(wanted) {
		return r.unchanged(known), nil
	}
	if err := r.checkRoom(wanted, known); err != nil {
		return Change{}, err
	}
	if known == nil {
		return r.added(cmd.Node), nil
	}
	return r.updated(known, cmd.Node), nil
}

func (r *Registry) checkRoom(wanted, known *CacheNode) error {
	grown := wanted.size()
	if known != nil {
		grown -= known.size()
	}
	switch {
	case known == nil && r.nodes.size() >= MaxNodes:
		return fmt.Errorf("%w: it holds %d nodes, the most it can", ErrRegistryFull, MaxNodes)
	case grown > 0 && r.bytes+grown > MaxBytes:
		return fmt.Errorf("%w: its nodes take %d bytes, and %d is the most they can", ErrRegistryFull, r.bytes, MaxBytes)
	}
	return nil
}

func (r *Registry) unchanged(known *CacheNode) Change {
	return Change{Revision: r.revision, Effect: Unchanged, Reason: ByRequest, Node: known, Previous: known}
}

func (r *Registry) added(n CacheNode) Change {
	r.revision++
	n.CreatedRevision, n.Revision = r.revision, r.revision
	n.Slot = r.pool(n.Pool).take()
	r.nodes.add(&n)
	r.hold(&n)
	return Change{Revision: r.revision, Effect: Added, Reason: ByRequest, Node: &n}
}

func (r *Registry) updated(old *CacheNode, n CacheNode) Change {
	r.revision++
	n.CreatedRevision, n.Revision = old.CreatedRevision, r.revision
	n.Slot = old.Slot
	n.share(old)
	if n.Pool != old.Pool {
		r.release(old)
		n.Slot = r.pool(n.Pool).take()
	}
	r.nodes.replace(&n)
	if n.Address == old.Address {
		r.bytes += n.size() - old.size()
	} else {
		r.letGo(old)
		r.hold(&n)
	}
	return Change{Revision: r.revision, Effect: Updated, Reason: ByRequest, Node: &n, Previous: old}
}

func (r *Registry) deregister(cmd Deregister) (Change, error) {
	known := r.nodes.get(cmd.ID)
	if known == nil {
		return Change{}, fmt.Errorf("%w: %q", ErrNoSuchNode, cmd.ID)
	}
	if err := cmd.If.check(cmd.ID, known); err != nil {
		return Change{}, err
	}
	return r.removed(known), nil
}

func (r *Registry) removed(known *CacheNode) Change {
	r.revision++
	r.release(known)
	r.letGo(known)
	r.nodes.remove(known.ID)
	return Change{Revision: r.revision, Effect: Removed, Reason: ByRequest, Node: known, Previous: known}
}

func byID(a, b *CacheNode) int { return strings.Compare(a.ID, b.ID) }

func sharesID(a, b *CacheNode) bool { return a.ID == b.ID }

// RestoreRegistry rebuilds a registry from the revision, the nodes (in any order) and
// the history that a view of it gave. It refuses what no registry can hold: two nodes
// with one id, address or slot, or a history with gaps. It does not check whether each
// node would be accepted today: rules get stricter, and what was accepted once must
// stay readable.
func RestoreRegistry(revision Revision, nodes []*CacheNode, changes []Change) (*Registry, error) {
	r := NewRegistry()
	r.revision = revision
	for _, n := range nodes {
		if n.CreatedRevision == 0 || n.CreatedRevision > n.Revision || n.Revision > revision {
			return nil, fmt.Errorf("node %q: its revisions %d and %d do not fit into a registry at %d",
				n.ID, n.CreatedRevision, n.Revision, revision)
		}
		if owner, taken := r.ownerOf(n.Address); taken {
			return nil, fmt.Errorf("nodes %q and %q share the address %s", owner, n.ID, n.Address)
		}
		if !r.claim(n) {
			return nil, fmt.Errorf("node %q: slot %d of pool %q is another node's, or out of range", n.ID, n.Slot, n.Pool)
		}
		r.hold(n)
	}
	ascending := slices.SortedFunc(slices.Values(nodes), byID)
	if ids := len(slices.CompactFunc(ascending, sharesID)); ids != len(nodes) {
		return nil, fmt.Errorf("%d nodes share %d ids", len(nodes), ids)
	}
	r.nodes = indexOf(ascending)
	var err error
	r.history, err = restoreHistory(revision, changes)
	return r, err
}
