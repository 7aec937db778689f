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

// NewNodes returns the use cases over cache nodes. A write renews the leases of the nodes
// that it registers.
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

// only returns the change of a command that makes exactly one.
func only(changes []domain.Change, err error) (domain.Change, error) {
	if err != nil {
		return domain.Change{}, err
	}
	return changes[0], nil
}

// View implements ports.Nodes.
func (n *Nodes) View(ctx context.Context, read ports.Read) (domain.View, error) {
	view, err := n.view(ctx, read.Source)
	// An instance that is starting can still answer a read that names a revision: once
	// it has that, it has what the reader needs.
	starts := read.Source == ports.Stale && read.AtLeast > 0 && errors.Is(err, ports.ErrNotCaughtUp)
	if err != nil && !starts {
		return domain.View{}, err
	}
	if starts || !satisfies(view, read) {
		if view, err = n.await(ctx, read); err != nil {
			return domain.View{}, err
		}
	}
	// A sure leader has the latest state, however long ago its followers answered.
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

// view returns the current view, as fresh as source promises.
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
		// It may have only a small part of what was committed before it started.
		return domain.View{}, fmt.Errorf("%w since it started", ports.ErrNotCaughtUp)
	default:
		return state.View, nil
	}
}

func satisfies(view domain.View, read ports.Read) bool {
	return view.Revision() >= read.AtLeast && (read.Past == nil || view.Revision() > *read.Past)
}

// await returns the first view that satisfies read. A view that arrives during the wait
// needs no proof of leadership: it holds a change that was committed since the read began.
func (n *Nodes) await(ctx context.Context, read ports.Read) (domain.View, error) {
	over := time.NewTimer(read.Wait)
	defer over.Stop()
	for {
		state, later := n.local.State()
		// A stale read goes on waiting even if this instance has lost contact.
		if err := streamEnd(state, read.Source); err != nil && (state.Closed || read.Source != ports.Stale) {
			return domain.View{}, err
		}
		if satisfies(state.View, read) {
			return state.View, nil
		}
		select {
		case <-later:
		case <-over.C:
			return n.afterWait(ctx, read)
		case <-ctx.Done():
			return domain.View{}, ctx.Err()
		}
	}
}

// afterWait is the answer when the wait is over. "Nothing new" needs a proof like any other
// answer.
func (n *Nodes) afterWait(ctx context.Context, read ports.Read) (domain.View, error) {
	view, err := n.view(ctx, read.Source)
	if err == nil && view.Revision() < read.AtLeast {
		err = &ports.BehindError{Revision: view.Revision()}
	}
	return view, err
}

// streamEnd is why no further changes come from source at this instance; nil while they
// may.
func streamEnd(state ports.LocalState, source ports.Source) error {
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
		// Most likely this instance is behind the one that the client followed before,
		// so a snapshot of its state would go back in time. Try to catch up. Without a
		// leader there is nothing better than that snapshot.
		if fresh, err := n.registry.ReadHere(ctx); err == nil {
			view = fresh
		}
	}
	stream := &nodeStream{local: n.local, source: source, opening: &view, snapshotNext: true}
	if after != nil {
		_, reaches := view.Since(*after)
		stream.position, stream.snapshotNext = *after, !reaches
	}
	return stream, nil
}

// maxDelivery is the most changes in a delivery: about what is written to a socket at once.
const maxDelivery = 64

// nodeStream is only a position in the history, so a follower that does not read costs
// nothing.
type nodeStream struct {
	local        ports.Local
	source       ports.Source
	opening      *domain.View // the view that Follow read, until it is delivered
	snapshotNext bool         // a snapshot comes next
	position     domain.Revision

	// end is why the stream ends, once that is known. It still delivers the changes up to
	// last, the revision at that moment, but none of those after it: the changes of the
	// next leader keep arriving here, and the stream might never end.
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
		s.end, s.last = streamEnd(state, s.source), state.View.Revision()
	}
	if s.end != nil && s.position >= s.last {
		return ports.Delivery{}, nil, s.end
	}
	return s.take(state.View), later, nil
}

// take returns what view has after the position, and advances the position.
func (s *nodeStream) take(view domain.View) ports.Delivery {
	delivery := ports.Delivery{Revision: view.Revision()}
	changes, reaches := view.Since(s.position)
	switch {
	case s.snapshotNext, !reaches && view.Revision() > s.position:
		snapshot := view // a copy, so that the parameter does not escape to the heap on every call
		s.snapshotNext, s.position, delivery.Snapshot = false, view.Revision(), &snapshot
	case len(changes) > 0:
		delivery.Changes = slices.Clone(changes[:min(len(changes), maxDelivery)])
		s.position = delivery.Changes[len(delivery.Changes)-1].Revision
	}
	return delivery
}
