package ports

import (
	"context"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Nodes is what the world asks about cache nodes. Writes are for the leader;
// elsewhere they are ErrNotLeader. Safe for concurrent use.
type Nodes interface {
	// Register adds or replaces a node, and renews its time to live. The errors
	// are domain.ErrInvalid, *domain.Refusal and those of Registry.Propose.
	Register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (domain.Change, error)

	// Deregister removes a node. Errors as for Register.
	Deregister(ctx context.Context, id string, condition domain.Condition) (domain.Change, error)

	// Batch makes all of the changes, in order, or none, and gives what became of
	// each. Errors as for Register.
	Batch(ctx context.Context, edits []domain.Edit) ([]domain.Change, error)

	// View reads the registry. Errors are those of Registry.Read, and with the
	// Source and the waits that say so ErrNoLeader, ErrNotCaughtUp, ErrTooStale
	// and ErrBehind.
	View(ctx context.Context, read Read) (domain.View, error)

	// Follow opens a stream of the changes after a revision, or, when after is
	// nil, of a snapshot and the changes after it. It holds nothing that has to
	// be released. Errors are those of View with source. A stream ends with
	// ErrClosed when this instance stops; otherwise, one from the Leader with
	// ErrNotLeader, any other one with ErrCutOff.
	Follow(ctx context.Context, after *domain.Revision, source Source) (NodeStream, error)
}

// Leases is what the world asks about nodes that have to be renewed. The leader
// alone knows how long each has left; elsewhere all but Held is ErrNotLeader.
// Safe for concurrent use.
type Leases interface {
	// Renew gives the node its full time to live again, and makes it what it was
	// when expiry had made it down. It changes nothing unless it does the latter, and
	// writes nothing unless that, or an expiry of which nobody knows the outcome, needs it.
	// It gives the node and the registry's revision. Errors:
	// domain.ErrNoSuchNode, domain.ErrNoTimeToLive (both as *domain.Refusal),
	// and those of Registry.Propose.
	Renew(ctx context.Context, id string) (*domain.CacheNode, domain.Revision, error)

	// Expire expires all nodes of a pool whose time has run out, also those that
	// are held back, and gives what became of them, and the registry's revision
	// then. Errors are those of Registry.Propose; some may have expired then.
	Expire(ctx context.Context, pool string) ([]domain.Change, domain.Revision, error)

	// Held gives the pools whose expiry is held back, in ascending order.
	Held() []HeldPool
}

// Backups is what the world asks about backups. They are made of what Nodes.View
// gives. Safe for concurrent use.
type Backups interface {
	// Restore replaces the registry with the backup that read gives, and gives every
	// node its full time to live; if expected is nil or the registry's revision
	// then. It calls read, which may take its time, once it is known that this
	// instance leads and restores nothing else (ErrRestoring). The errors are read's,
	// *domain.Refusal and those of Restorer.Replace.
	Restore(ctx context.Context, read func() (domain.Backup, error), expected *domain.Revision) (domain.Replaced, error)
}

// HeldPool is a pool in which so many nodes have stopped renewing that it looks
// more like a fault between them and this instance than like their end.
type HeldPool struct {
	Pool string
	// Overdue is how many nodes have run out of time, Leased how many have to be
	// renewed, those among them.
	Overdue, Leased int
}

// NodeStream is a position in the registry's history. For one goroutine.
type NodeStream interface {
	// Next gives what lies after the position and moves the position behind it.
	// When there is nothing it gives an empty delivery and a channel that is
	// closed as soon as asking again is worth while. It never blocks. Its error
	// is final, and says why the stream ends here: see Nodes.Follow.
	Next() (Delivery, <-chan struct{}, error)
}

// Delivery is a snapshot, or changes, or nothing.
type Delivery struct {
	// Snapshot replaces everything that the follower knew; nil for none.
	Snapshot *domain.View
	// Changes are in order, and none is missing. They are few, and hold nothing else of
	// history: to take long over them keeps no more than them.
	Changes []domain.Change
	// Revision is that of the registry when this was taken from it. More changes than
	// these may lead there.
	Revision domain.Revision
}

// Empty reports whether there is nothing to deliver.
func (d Delivery) Empty() bool { return d.Snapshot == nil && len(d.Changes) == 0 }

// Cluster is what the world asks about the raft cluster. Safe for concurrent use.
type Cluster interface {
	// Add makes an instance a member, or changes its raft address or suffrage, and
	// gives what it is then. Whoever is to answer at an address, or to count in the
	// majority, must answer there, bear that id, and belong to no other cluster:
	// domain.ErrUnreachable, domain.ErrIDMismatch, domain.ErrOtherCluster; one that can't read
	// what all others read is domain.ErrTooOld, and one that is to take the place of another
	// process that answers under the id is domain.ErrIDInUse; force skips these questions.
	// A new voter is a nonvoter until it has caught up, forced or not; when ctx ends
	// before, that is ErrOutcomeUnknown, and goes on all the same. Who forces it waits for
	// no more than two seconds, and is given the nonvoter. The leader hands over before it
	// is made a nonvoter, as for Remove. Other errors: domain.ErrAddressInUse,
	// domain.ErrClusterFull, domain.ErrLastVoter and those of Membership.Add.
	Add(ctx context.Context, instance domain.Instance, force bool) (domain.Instance, error)

	// Remove ends a membership and gives what it was. The leader hands over
	// before it is removed, and then answers ErrNotLeader: the new leader
	// removes it. Errors: domain.ErrNoSuchInstance, domain.ErrLastVoter and
	// those of Membership.Remove.
	Remove(ctx context.Context, id string) (domain.Instance, error)

	// HandOver gives leadership to the voter named by to, or, if that is empty, to
	// one that is up to date, and gives the id of who leads then; empty where that
	// is not known soon. To the leader itself it gives nothing away. The only voter
	// has nobody to choose: domain.ErrLastVoter. Other errors are those of
	// Membership.HandOver.
	HandOver(ctx context.Context, to string) (string, error)

	// Describe reads the membership, with what each instance says of itself when
	// it is asked now. With Stale it also answers without a leader. Errors are
	// those of Membership.Roster.
	Describe(ctx context.Context, source Source) (domain.Cluster, error)

	// Follow opens a stream of the raft cluster's states. Errors are
	// those of Describe, ends those of Nodes.Follow.
	Follow(ctx context.Context, source Source) (ClusterStream, error)
}

// LeaderLocator knows where to send those who ask for the leader. Safe for concurrent use.
type LeaderLocator interface {
	// LeaderAddress is the application address of another instance, that leads.
	// ErrNoLeader when there is none, it can't be asked, it is this instance, or it
	// has no address but this one's, to which nobody can be sent. It gives no other error.
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

// ReadIndexer is the leader to instances that answer reads in its place. Safe for
// concurrent use.
type ReadIndexer interface {
	// ReadIndex proves that this instance leads, after it was called, and gives
	// the place in the log up to which another one has to have applied it to
	// answer a read that began before. Errors are those of Registry.Read.
	ReadIndex(ctx context.Context) (uint64, error)
}

// Joining is how it goes with the wish of this instance to be a member. Safe for
// concurrent use.
type Joining interface {
	// Asking says, of an instance that asks others to be added, whom, and what they
	// answered last; empty while it asks nobody.
	Asking() string
}
