package ports

import (
	"context"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Nodes is what the world asks about cache nodes. Every method but Follow's
// stream is answered by the leader alone; elsewhere it is ErrNotLeader.
// Safe for concurrent use.
type Nodes interface {
	// Register adds or replaces a node. The errors are domain.ErrInvalid,
	// *domain.Refusal and those of Registry.Propose.
	Register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (domain.Change, error)

	// Deregister removes a node. Errors as for Register.
	Deregister(ctx context.Context, id string, condition domain.Condition) (domain.Change, error)

	// View is a linearizable read of the registry.
	View(ctx context.Context) (domain.View, error)

	// Follow opens a stream of the changes after a revision, or, when after is
	// nil, of a snapshot and the changes after it. It holds nothing that has to
	// be released. Errors are those of View.
	Follow(ctx context.Context, after *domain.Revision) (NodeStream, error)
}

// NodeStream is a position in the registry's history. For one goroutine.
type NodeStream interface {
	// Next gives what lies after the position and moves the position behind it.
	// When there is nothing it gives an empty delivery and a channel that is
	// closed as soon as asking again is worth while. It never blocks. Its error
	// is final, and says why the stream ends here: ErrNotLeader or ErrClosed.
	Next() (Delivery, <-chan struct{}, error)
}

// Delivery is a snapshot, or changes, or nothing.
type Delivery struct {
	// Snapshot replaces everything that the follower knew; nil for none.
	Snapshot *domain.View
	// Changes are in order, and none is missing. Shared: not to be modified.
	Changes []domain.Change
}

// Empty reports whether there is nothing to deliver.
func (d Delivery) Empty() bool { return d.Snapshot == nil && len(d.Changes) == 0 }

// Cluster is what the world asks about the raft cluster. Safe for concurrent use.
type Cluster interface {
	// Add makes an instance a member, or changes its raft address or suffrage.
	// Errors: domain.ErrAddressInUse, domain.ErrLastVoter and those of
	// Membership.Add.
	Add(ctx context.Context, instance domain.Instance) error

	// Remove ends a membership and gives what it was. The leader hands over
	// before it is removed, and then answers ErrNotLeader: the new leader
	// removes it. Errors: domain.ErrNoSuchInstance, domain.ErrLastVoter and
	// those of Membership.Remove.
	Remove(ctx context.Context, id string) (domain.Instance, error)

	// Describe is a linearizable read of the membership, with what each
	// instance says of itself when it is asked now.
	Describe(ctx context.Context) (domain.Cluster, error)

	// Follow opens a stream of the raft cluster's states. Errors are
	// those of Describe.
	Follow(ctx context.Context) (ClusterStream, error)

	// LeaderAddress is the application address of another instance, that leads.
	// ErrNoLeader when there is none, it can't be asked, or it is this instance.
	LeaderAddress(ctx context.Context) (string, error)
}

// ClusterStream is a follower of the raft cluster. For one goroutine.
type ClusterStream interface {
	// Next gives the first state as a snapshot and then what happened since the
	// last call, possibly nothing. Channel and error are as for NodeStream.
	Next() (ClusterDelivery, <-chan struct{}, error)
}

// ClusterDelivery is a snapshot, or events, or nothing.
type ClusterDelivery struct {
	Snapshot *domain.Cluster
	Events   []domain.ClusterEvent
}

// Empty reports whether there is nothing to deliver.
func (d ClusterDelivery) Empty() bool { return d.Snapshot == nil && len(d.Events) == 0 }

// Self is what this instance tells others about itself. Safe for concurrent use.
type Self interface {
	Identity() Identity
}
