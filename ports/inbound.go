package ports

import (
	"context"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Nodes is what the world asks about cache nodes. Only the leader writes; on other
// instances a write returns ErrNotLeader. Safe for concurrent use.
type Nodes interface {
	// Register adds or replaces a node, and renews its time to live. Errors:
	// domain.ErrInvalid, *domain.Refusal and those of Registry.Propose.
	Register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (domain.Change, error)

	// Deregister removes a node. Errors as for Register.
	Deregister(ctx context.Context, id string, condition domain.Condition) (domain.Change, error)

	// Batch makes all of the changes, in order, or none. It returns one change for each
	// edit. Errors as for Register.
	Batch(ctx context.Context, edits []domain.Edit) ([]domain.Change, error)

	// View reads the registry. Errors are those of Registry.Read, and, depending on
	// read: ErrNoLeader, ErrNotCaughtUp, ErrTooStale, ErrBehind and ErrCutOff.
	View(ctx context.Context, read Read) (domain.View, error)

	// Follow opens a stream of the changes after a revision, or, if after is nil, of a
	// snapshot and the changes after it. A stream needs no closing. Errors are those of
	// View with source. The stream ends with ErrClosed when this instance shuts down.
	// With source Leader it ends with ErrNotLeader when this instance loses leadership,
	// otherwise with ErrCutOff when it loses contact with the leader.
	Follow(ctx context.Context, after *domain.Revision, source Source) (NodeStream, error)
}

// Leases is what the world asks about nodes that have a time to live. Only the leader
// knows how long each has left; on other instances Renew and Expire return ErrNotLeader.
// Safe for concurrent use.
type Leases interface {
	// Renew gives the node its full time to live again, and revives it if expiry had
	// made it down. It returns the node and the registry's revision. It writes to the log
	// only to revive the node, or to settle an earlier expiry of it whose outcome is
	// unknown. Errors: domain.ErrNoSuchNode, domain.ErrNoTimeToLive (both as
	// *domain.Refusal), and those of Registry.Propose.
	Renew(ctx context.Context, id string) (*domain.CacheNode, domain.Revision, error)

	// Expire expires all nodes of a pool whose time has run out, even if the pool is held
	// back. It returns the changes that this made, and the registry's revision after
	// them. Errors are those of Registry.Propose; with ErrOutcomeUnknown some nodes may
	// have expired.
	Expire(ctx context.Context, pool string) ([]domain.Change, domain.Revision, error)

	// Held returns the pools whose expiry is held back, in ascending order. It is empty
	// unless this instance leads.
	Held() []HeldPool
}

// Backups is what the world asks about backups. A backup is made from a view that
// Nodes.View returns. Safe for concurrent use.
type Backups interface {
	// Restore replaces the registry by the backup that read returns, and gives every
	// node its full time to live. If expected is not nil, it refuses (*domain.Refusal)
	// unless the registry is at that revision. It calls read, which may take long, only
	// once it knows that this instance leads and restores nothing else (ErrRestoring).
	// Other errors are those of read and of Restorer.Replace.
	Restore(ctx context.Context, read func() (domain.Backup, error), expected *domain.Revision) (domain.Replaced, error)
}

// HeldPool is a pool whose expiry is held back: so many of its nodes have stopped
// renewing that the fault more likely lies between them and this instance.
type HeldPool struct {
	Pool string
	// Overdue is how many nodes have run out of time. Leased is how many nodes have a
	// time to live, the overdue ones included.
	Overdue, Leased int
}

// NodeStream is a position in the registry's history. For one goroutine.
type NodeStream interface {
	// Next returns what comes after the position, and advances the position past it. If
	// there is nothing, it returns an empty delivery and a channel that is closed when it
	// is worth calling Next again. It never blocks. An error is final: see Nodes.Follow.
	Next() (Delivery, <-chan struct{}, error)
}

// Delivery is a snapshot, or changes, or nothing.
type Delivery struct {
	// Snapshot replaces everything that the follower knew; nil if there is none.
	Snapshot *domain.View
	// Changes are in order, and none is missing. They are a small copy, so a slow
	// follower keeps no more of the history in memory than these.
	Changes []domain.Change
	// Revision is the registry's revision when the delivery was made. It may be later
	// than that of the last of Changes.
	Revision domain.Revision
}

// Empty reports whether there is nothing to deliver.
func (d Delivery) Empty() bool { return d.Snapshot == nil && len(d.Changes) == 0 }

// Cluster is what the world asks about the raft cluster. Safe for concurrent use.
type Cluster interface {
	// Add makes an instance a member, or changes its raft address or suffrage, and
	// returns the member.
	//
	// An instance that gets a new address, or becomes a voter, is asked at its address
	// first, unless force is set. It must answer (domain.ErrUnreachable), have that id
	// (domain.ErrIDMismatch), belong to no other cluster (domain.ErrOtherCluster) and be
	// able to read the log (domain.ErrTooOld). A member that still answers at its old
	// address must be the same process (domain.ErrIDInUse).
	//
	// A new voter is a nonvoter until it has caught up, even with force. If ctx ends
	// before that, Add returns ErrOutcomeUnknown, and the promotion goes on. With force
	// Add waits for at most two seconds, and then returns the nonvoter. A leader that is
	// to be a nonvoter hands over first, as for Remove.
	//
	// Other errors: domain.ErrAddressInUse, domain.ErrClusterFull, domain.ErrLastVoter and
	// those of Membership.Add.
	Add(ctx context.Context, instance domain.Instance, force bool) (domain.Instance, error)

	// Remove ends a membership and returns the former member. A leader that is to be
	// removed hands over first and returns ErrNotLeader: the new leader can remove it.
	// Errors: domain.ErrNoSuchInstance, domain.ErrLastVoter and those of
	// Membership.Remove.
	Remove(ctx context.Context, id string) (domain.Instance, error)

	// HandOver hands leadership over to the voter named by to, or, if that is empty, to
	// one that is up to date. It returns the id of the new leader; empty if that does not
	// become known soon. If to is the leader itself, nothing happens. If it is the only
	// voter and to is empty, the error is domain.ErrLastVoter. Other errors are those of
	// Leadership.HandOver.
	HandOver(ctx context.Context, to string) (string, error)

	// Describe reads the membership, and asks each instance about itself. With Stale it
	// also answers without a leader. Errors are those of Membership.Roster, or with Here
	// those of Membership.RosterHere.
	Describe(ctx context.Context, source Source) (domain.Cluster, error)

	// Follow opens a stream of the raft cluster's states. Errors are those of Describe.
	// The stream ends as one of Nodes.Follow does.
	Follow(ctx context.Context, source Source) (ClusterStream, error)
}

// LeaderLocator knows the address to which clients of the leader are redirected. Safe for
// concurrent use.
type LeaderLocator interface {
	// LeaderAddress returns the application address of the leader, which is another
	// instance. Its only error is ErrNoLeader: there is no leader, the leader can't be
	// asked, this instance leads, or the leader advertises this instance's address.
	LeaderAddress(ctx context.Context) (string, error)
}

// ClusterStream is a follower of the raft cluster. For one goroutine.
type ClusterStream interface {
	// Next returns a snapshot the first time, and then the events since the last call,
	// possibly none. Channel and error are as for NodeStream.
	Next() (ClusterDelivery, <-chan struct{}, error)
}

// ClusterDelivery is a snapshot, or events, or nothing.
type ClusterDelivery struct {
	Snapshot *domain.Cluster
	Events   []domain.ClusterEvent
}

// Empty reports whether there is nothing to deliver.
func (d ClusterDelivery) Empty() bool { return d.Snapshot == nil && len(d.Events) == 0 }

// Self tells other instances about this one. Safe for concurrent use.
type Self interface {
	Identity() Identity
}

// ReadIndexer lets other instances answer linearizable reads (the read index of raft).
// Safe for concurrent use.
type ReadIndexer interface {
	// ReadIndex proves that this instance leads after the call began, and returns an
	// index of the log. An instance that has applied the log up to there may answer reads
	// that began before the call. Errors are those of Registry.Read.
	ReadIndex(ctx context.Context) (uint64, error)
}

// JoinStatus tells how this instance's attempt to join a cluster goes. Safe for
// concurrent use.
type JoinStatus interface {
	// JoinStatus says in words which instances this one asks to be added, and what they
	// answered last; empty if it asks none.
	JoinStatus() string
}
