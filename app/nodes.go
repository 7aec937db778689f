package app

import (
	"context"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Nodes implements ports.Nodes.
type Nodes struct {
	registry ports.Registry
	local    ports.Local
}

// NewNodes gives the use cases over cache nodes.
func NewNodes(registry ports.Registry, local ports.Local) *Nodes {
	return &Nodes{registry: registry, local: local}
}

// Register implements ports.Nodes.
func (n *Nodes) Register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (domain.Change, error) {
	node, err := domain.NewCacheNode(spec)
	if err != nil {
		return domain.Change{}, err
	}
	return n.registry.Propose(ctx, domain.Register{Node: node, If: condition})
}

// Deregister implements ports.Nodes.
func (n *Nodes) Deregister(ctx context.Context, id string, condition domain.Condition) (domain.Change, error) {
	return n.registry.Propose(ctx, domain.Deregister{ID: id, If: condition})
}

// View implements ports.Nodes.
func (n *Nodes) View(ctx context.Context) (domain.View, error) {
	return n.registry.Read(ctx)
}

// Follow implements ports.Nodes.
func (n *Nodes) Follow(ctx context.Context, after *domain.Revision) (ports.NodeStream, error) {
	view, err := n.registry.Read(ctx)
	if err != nil {
		return nil, err
	}
	stream := &nodeStream{local: n.local, position: view.Revision()}
	if after == nil {
		stream.first.Snapshot = &view
		return stream, nil
	}
	changes, reaches := view.Since(*after)
	if !reaches {
		stream.first.Snapshot = &view
		return stream, nil
	}
	stream.first.Changes = changes
	return stream, nil
}

// nodeStream is no more than a position: a follower that does not read costs
// the others nothing.
type nodeStream struct {
	local    ports.Local
	first    ports.Delivery // what the opening read found
	position domain.Revision
	end      error // why nothing more comes, once that is known
}

// Next implements ports.NodeStream.
func (s *nodeStream) Next() (ports.Delivery, <-chan struct{}, error) {
	state, later := s.local.State()
	if first := s.first; !first.Empty() {
		s.first = ports.Delivery{}
		return first, later, nil
	}
	switch {
	case s.end != nil:
		return ports.Delivery{}, nil, s.end
	case state.Closed:
		s.end = ports.ErrClosed
	case !state.Leading:
		s.end = ports.ErrNotLeader
	}
	// What is there when leadership is found lost is told before the stream
	// ends. It is told once: the changes of the next leader go on arriving here,
	// and a stream that waited for them to stop might never end.
	changes, reaches := state.View.Since(s.position)
	switch {
	case reaches && len(changes) > 0:
		s.position = state.View.Revision()
		return ports.Delivery{Changes: changes}, later, nil
	case !reaches && state.View.Revision() > s.position:
		s.position = state.View.Revision()
		return ports.Delivery{Snapshot: &state.View}, later, nil
	}
	return ports.Delivery{}, later, s.end
}
