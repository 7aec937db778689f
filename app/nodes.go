package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Nodes implements ports.Nodes.
type Nodes struct {
	registry ports.Registry
	local    ports.Local
	leases   *Leases
}

// NewNodes gives the use cases over cache nodes. Writes renew in leases what
// they register.
func NewNodes(registry ports.Registry, local ports.Local, leases *Leases) *Nodes {
	return &Nodes{registry: registry, local: local, leases: leases}
}

// Register implements ports.Nodes.
func (n *Nodes) Register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (domain.Change, error) {
	node, err := domain.NewCacheNode(spec)
	if err != nil {
		return domain.Change{}, err
	}
	return only(n.leases.propose(ctx, domain.Register{Node: node, If: condition}, node.ID))
}

// Deregister implements ports.Nodes.
func (n *Nodes) Deregister(ctx context.Context, id string, condition domain.Condition) (domain.Change, error) {
	return only(n.registry.Propose(ctx, domain.Deregister{ID: id, If: condition}))
}

// Batch implements ports.Nodes.
func (n *Nodes) Batch(ctx context.Context, edits []domain.Edit) ([]domain.Change, error) {
	batch, err := domain.NewBatch(edits)
	if err != nil {
		return nil, err
	}
	var renewed []string
	for _, cmd := range batch.Commands {
		if register, ok := cmd.(domain.Register); ok {
			renewed = append(renewed, register.Node.ID)
		}
	}
	return n.leases.propose(ctx, batch, renewed...)
}

// only gives the change of a command that makes exactly one.
func only(changes []domain.Change, err error) (domain.Change, error) {
	if err != nil {
		return domain.Change{}, err
	}
	return changes[0], nil
}

// View implements ports.Nodes.
func (n *Nodes) View(ctx context.Context, read ports.Read) (domain.View, error) {
	view, err := n.view(ctx, read.Source)
	// Whoever names a revision knows what an instance that starts has to have.
	starts := read.Source == ports.Stale && read.AtLeast > 0 && errors.Is(err, ports.ErrNotCaughtUp)
	if err != nil && !starts {
		return domain.View{}, err
	}
	if starts || !satisfies(view, read) {
		if view, err = n.await(ctx, read); err != nil {
			return domain.View{}, err
		}
	}
	// What a leader has is the latest, however long ago its followers told it so.
	if read.MaxStale != nil && !n.local.SureLeader() {
		switch contact, ever := n.local.LeaderContact(); {
		case !ever:
			return domain.View{}, ports.ErrTooStale
		case contact > *read.MaxStale:
			return domain.View{}, fmt.Errorf("%w: that was %v ago", ports.ErrTooStale, contact.Round(time.Millisecond))
		}
	}
	return view, nil
}

// view is what there is now, as fresh as source promises.
func (n *Nodes) view(ctx context.Context, source ports.Source) (domain.View, error) {
	switch source {
	case ports.Leader:
		return n.registry.Read(ctx)
	case ports.Here:
		return n.registry.ReadHere(ctx)
	}
	switch state, _ := n.local.State(); {
	case state.Closed:
		return domain.View{}, ports.ErrClosed
	case !state.CaughtUp:
		// What it has may be a small part of what was there before its start.
		return domain.View{}, fmt.Errorf("%w since it started", ports.ErrNotCaughtUp)
	default:
		return state.View, nil
	}
}

func satisfies(view domain.View, read ports.Read) bool {
	return view.Revision() >= read.AtLeast && (read.Past == nil || view.Revision() > *read.Past)
}

// await gives the first view that satisfies read. A view that comes while the
// asker waits need not be proven: it holds a change that was committed since.
func (n *Nodes) await(ctx context.Context, read ports.Read) (domain.View, error) {
	over := time.NewTimer(read.Wait)
	defer over.Stop()
	for {
		state, later := n.local.State()
		// Who takes what this instance has waits also while that can't change.
		if err := endOf(state, read.Source); err != nil && (state.Closed || read.Source != ports.Stale) {
			return domain.View{}, err
		}
		if satisfies(state.View, read) {
			return state.View, nil
		}
		select {
		case <-later:
		case <-over.C:
			return n.overdue(ctx, read)
		case <-ctx.Done():
			return domain.View{}, ctx.Err()
		}
	}
}

// overdue is the answer when the wait is over: "nothing new" is proven like any
// other.
func (n *Nodes) overdue(ctx context.Context, read ports.Read) (domain.View, error) {
	view, err := n.view(ctx, read.Source)
	if err == nil && view.Revision() < read.AtLeast {
		err = &ports.BehindError{Revision: view.Revision()}
	}
	return view, err
}

// endOf is why nothing that is waited for here comes any more; nil while it may.
func endOf(state ports.LocalState, source ports.Source) error {
	switch {
	case state.Closed:
		return ports.ErrClosed
	case source == ports.Leader && !state.Leading:
		return ports.ErrNotLeader
	case source != ports.Leader && !state.InTouch:
		return ports.ErrCutOff
	}
	return nil
}

// Follow implements ports.Nodes.
func (n *Nodes) Follow(ctx context.Context, after *domain.Revision, source ports.Source) (ports.NodeStream, error) {
	view, err := n.view(ctx, source)
	if err != nil {
		return nil, err
	}
	if source == ports.Stale && after != nil && *after > view.Revision() {
		// Most likely this instance is behind the one that the follower comes
		// from: a snapshot would take it back in time. Without a leader there is
		// nothing better.
		if fresh, err := n.registry.ReadHere(ctx); err == nil {
			view = fresh
		}
	}
	stream := &nodeStream{local: n.local, source: source, opening: &view, anew: true}
	if after != nil {
		_, reaches := view.Since(*after)
		stream.position, stream.anew = *after, !reaches
	}
	return stream, nil
}

// deliveredAtOnce is how many changes a delivery has, at most: about what goes to a socket
// at once.
const deliveredAtOnce = 64

// nodeStream is no more than a position: a follower that does not read costs
// the others nothing.
type nodeStream struct {
	local    ports.Local
	source   ports.Source
	opening  *domain.View // what the opening read found, until it is delivered
	anew     bool         // a snapshot comes next
	position domain.Revision

	// end is why nothing more comes, once that is known, but for what was there by then: up
	// to last. The changes of the next leader go on arriving here, and a stream that waited
	// for them to stop might never end.
	end  error
	last domain.Revision
}

// Next implements ports.NodeStream.
func (s *nodeStream) Next() (ports.Delivery, <-chan struct{}, error) {
	state, later := s.local.State()
	if opening := s.opening; opening != nil {
		s.opening = nil
		if first := s.take(*opening); !first.Empty() {
			return first, later, nil
		}
	}
	if s.end == nil {
		s.end, s.last = endOf(state, s.source), state.View.Revision()
	}
	if s.end != nil && s.position >= s.last {
		return ports.Delivery{}, nil, s.end
	}
	return s.take(state.View), later, nil
}

// take gives what is in view behind the position, and moves that.
func (s *nodeStream) take(view domain.View) ports.Delivery {
	delivery := ports.Delivery{Revision: view.Revision()}
	changes, reaches := view.Since(s.position)
	switch {
	case s.anew, !reaches && view.Revision() > s.position:
		snapshot := view // not the parameter, which would be on the heap every time
		s.anew, s.position, delivery.Snapshot = false, view.Revision(), &snapshot
	case len(changes) > 0:
		delivery.Changes = slices.Clone(changes[:min(len(changes), deliveredAtOnce)])
		s.position = delivery.Changes[len(delivery.Changes)-1].Revision
	}
	return delivery
}
