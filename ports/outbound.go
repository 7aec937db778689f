package ports

import (
	"cmp"
	"context"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Registry is the replicated registry. To Propose and Read, an instance that is not
// the leader answers ErrNotLeader and does nothing. Safe for concurrent use.
type Registry interface {
	// Propose returns once this instance has applied cmd: what each part of it did
	// (see domain.Registry.Apply), or why it was refused (*domain.Refusal). When it can't know what becomes of cmd,
	// because leadership or ctx ended while cmd was on its way, it returns
	// ErrOutcomeUnknown. ErrBusy, ErrUpgrading, ErrClosed, ErrNotLeader and a context that had
	// ended before say that nothing happened. So does ErrNoLeader: this instance
	// has led, and is in trouble with its disk.
	Propose(ctx context.Context, cmd domain.Command) ([]domain.Change, error)

	// Read gives a view that holds every change answered, by any instance,
	// before Read was called. Errors: ErrNotLeader, ErrNoLeader (as for Propose),
	// ErrClosed, or ctx's.
	Read(ctx context.Context) (domain.View, error)

	// ReadHere is Read also where another instance leads, which is asked how far
	// this one has to be. Those who wait at the same time share a question. It
	// gives ErrNoLeader instead of ErrNotLeader.
	ReadHere(ctx context.Context) (domain.View, error)
}

// ReadIndex is how far an instance has to be to answer a read, and who says so.
type ReadIndex struct {
	RaftID    string
	ClusterID string
	// Index is a place in the replicated log: see ReadIndexer.
	Index uint64
	// Members are the ids of who belongs to the cluster there; empty where that is
	// not told.
	Members []string
}

// Local is what this instance knows by itself; it asks nobody, so it may be
// behind. Safe for concurrent use; it never blocks.
type Local interface {
	// State gives the latest state, and a channel that is closed once there is
	// a later one.
	State() (LocalState, <-chan struct{})

	// LeaderContact says how long ago this instance heard from the leader, or,
	// when it leads, from a majority; false: never since it started.
	LeaderContact() (time.Duration, bool)

	// SureLeader says, without asking anybody, whether this instance led when it was
	// called: so recently has it heard from a majority that nobody else can have
	// been elected. False where it does not lead, or is not sure.
	SureLeader() bool
}

// LocalState is the state of one instance at one moment.
type LocalState struct {
	// View holds only what is committed.
	View domain.View
	// Roster is the latest membership that reached this instance.
	Roster domain.Roster
	// Committed are the memberships that this instance saw committed lately, each
	// with its place in the replicated log, in ascending order. Old ones are
	// forgotten, all of them but the last when the state is replaced by a snapshot.
	Committed []CommittedRoster
	// ClusterID is empty until the instance has heard it.
	ClusterID string
	Term      uint64
	// Leading: this instance leads in Term and is able to serve.
	Leading bool
	// LeaderID and LeaderRaftAddress are empty while no leader is known.
	LeaderID          string
	LeaderRaftAddress string
	// InTouch: LeaderContact is not longer ago than the election timeout.
	InTouch bool
	// Member: Roster holds this instance, and nobody has told it that it was Removed.
	Member bool
	// CaughtUp: since it started, this instance has applied everything that was
	// committed when it first heard from a leader.
	CaughtUp bool
	// Applied is how far in the replicated log View is: see ReadIndexer.
	Applied uint64
	// Promotions are the nonvoters that are to be voters once they have caught up,
	// in ascending order: see Promotions.
	Promotions []string
	// Staged: this instance is to be a voter, and is a nonvoter until it has caught
	// up. Who relies on it as on a voter would be mistaken.
	Staged bool
	// Quarantine is why this instance neither votes nor acknowledges anything that
	// counts: it has lost what it had, or is new, until it has been made a nonvoter
	// and has got all that was committed by then. Empty: it does.
	Quarantine string
	// Removed: this instance was a member, and is none any more.
	Removed bool
	// RosterRaftAddress is the raft address that the membership has of this instance, where it is not
	// its own; else empty. A leader looks for it there.
	RosterRaftAddress string
	// DiskTrouble says what is wrong with the disk of this instance, which neither
	// leads nor stands for election meanwhile; empty when nothing is.
	DiskTrouble string
	// Closed: the instance is shutting down, and serves nobody any more.
	Closed bool
}

// LastCommitted is the last membership that is known to be committed, up to Applied; zero where
// none is.
func (s LocalState) LastCommitted() CommittedRoster {
	if len(s.Committed) == 0 {
		return CommittedRoster{}
	}
	return s.Committed[len(s.Committed)-1]
}

// CommittedRoster is a membership that was committed at Index of the replicated log.
type CommittedRoster struct {
	Index  uint64
	Roster domain.Roster
}

// Unready says what keeps this instance from doing its part; empty when nothing
// does. Asking is what Joining says of it.
func (s LocalState) Unready(asking string) []string {
	var reasons []string
	if s.Closed {
		reasons = append(reasons, "it is shutting down")
	}
	switch {
	case s.Removed:
		reasons = append(reasons, "it was removed from the raft cluster: stop it, or add it again (PUT /raft/node on the leader)")
	case !s.Member && (s.Quarantine == "" || s.ClusterID == ""):
		waits := cmp.Or(asking, "it waits to be added (PUT /raft/node on the leader)")
		reasons = append(reasons, "it is not a member of a raft cluster: "+waits)
	}
	if s.Quarantine != "" && s.ClusterID != "" {
		reasons = append(reasons, "it is in quarantine, because "+s.Quarantine+
			": it does not vote, and waits for the leader of cluster "+s.ClusterID+", which makes it a nonvoter and sends it what it lacks, unless it was removed there meanwhile")
	}
	if s.Staged {
		reasons = append(reasons, "it is a nonvoter until it has caught up, and then a voter")
	}
	if s.DiskTrouble != "" {
		reasons = append(reasons, s.DiskTrouble)
	}
	switch {
	case s.LeaderID == "" && s.RosterRaftAddress != "":
		reasons = append(reasons, "it knows no leader: as far as it knows, it is a member at "+s.RosterRaftAddress+
			", which is not its raft address: start it at that one, or with --join, or tell the leader (PUT /raft/node)")
	case s.LeaderID == "":
		reasons = append(reasons, "it knows no leader")
	}
	if !s.CaughtUp {
		reasons = append(reasons, "it has not caught up with the leader since it started")
	}
	return reasons
}

// Membership changes who belongs to the raft cluster. To all but RosterHere, an
// instance that is not the leader answers ErrNotLeader. Changes are made one after
// the other. Safe for concurrent use.
type Membership interface {
	// Roster gives a membership that is committed, and holds every change answered
	// before Roster was called. Errors are as for Registry.Read.
	Roster(ctx context.Context) (domain.Roster, error)

	// RosterHere is Roster also where another instance leads: see
	// Registry.ReadHere.
	RosterHere(ctx context.Context) (domain.Roster, error)

	// Add takes the steps of domain.Roster.Join, or gives its refusal. A voter that
	// could not be spared is not made a nonvoter: ErrNoMajorityLeft. Other errors are as
	// for Registry.Propose; it may be called again.
	Add(ctx context.Context, instance domain.Instance) error

	// Remove ends the membership of the instance, if domain.Roster.Leave
	// allows it, and it can be spared. Errors as for Add.
	Remove(ctx context.Context, id string) error

	// CanSpare looks, before anything is changed, whether a majority of the voters is left
	// without the instance, and says ErrNoMajorityLeft where Add or Remove would. Other
	// errors are as for Registry.Read.
	CanSpare(ctx context.Context, id string) error

	// HandOver gives leadership to the voter named by to, or, if that is empty, to
	// one that is up to date, and returns once this instance no longer leads; it is
	// no successor of itself. Errors: ErrNotLeader, also where leadership was lost before
	// any voter was told to take over, domain.ErrNoSuchInstance, domain.ErrNotVoter,
	// ErrNoSuccessor, ctx's.
	HandOver(ctx context.Context, to string) error
}

// Promotions are the instances that somebody wants to be voters, and that are to
// be nonvoters until they have caught up. They are replicated, so that the next
// leader goes on with them. All but the leader answer ErrNotLeader. Safe for
// concurrent use.
type Promotions interface {
	// AddPromotion adds id to them, and Settle takes it out; both may be done again.
	// Errors are those of Registry.Propose.
	AddPromotion(ctx context.Context, id string) error
	RemovePromotion(ctx context.Context, id string) error
}

// Formats is what the instances of the cluster can read of the replicated log: each
// build reads what came with a format and all before. What not all instances read is
// refused with ErrUpgrading. Safe for concurrent use; it never blocks.
type Formats interface {
	// Heard notes which format the instance named id told that it reads; less than
	// 1 is 1. What it told last counts. Who is no member is forgotten.
	Heard(id string, format int)

	// Shared is the latest format that every instance of the cluster is known to
	// read; of those that have not been heard of that is 1.
	Shared() int

	// Written is the latest format that may be in the log, as far as is known: the one that
	// this instance reads, and all that have been heard of. It is never less than what
	// this instance has applied since it started, whoever was added meanwhile.
	Written() int
}

// Restorer replaces the whole registry. All but the leader answer ErrNotLeader.
// Safe for concurrent use.
type Restorer interface {
	// Replace does what domain.Registry.Replace does, on every instance, and returns
	// once this one has done it. Nobody ever sees a part of it. It takes as long as
	// the size of with needs, but waits for nothing longer than a few seconds. While
	// one is under way another one ends it, with ErrBusy. Errors are those of
	// Registry.Propose; with all but ErrOutcomeUnknown nothing happened. with is
	// left as it is.
	Replace(ctx context.Context, with *domain.Replacement, expected *domain.Revision) (domain.Replaced, error)
}

// Peers asks other instances about themselves. Safe for concurrent use.
type Peers interface {
	// Identify asks the instance at raftAddress, within ctx.
	Identify(ctx context.Context, raftAddress string) (Identity, error)

	// ReadIndex asks the leader at raftAddress, within ctx, how far an instance
	// has to be to answer a read that begins now. Errors: ErrNotLeader, or what
	// kept it from being asked.
	ReadIndex(ctx context.Context, raftAddress string) (ReadIndex, error)
}

// Identity is what an instance says of itself.
type Identity struct {
	RaftID             string
	ApplicationAddress string
	// ClusterID is empty while the instance belongs to no cluster.
	ClusterID string
	Version   string
	// Applied is how far in the log it has come: see ReadIndexer.
	Applied uint64
	// Format is what it reads of the log: see Formats. 0: it does not say.
	Format int
	// Quarantined: it must not be counted on as a voter: see LocalState.
	Quarantined bool
	// Process is another one in each process, whatever RaftID that bears, and at whatever
	// address it is asked. Empty: it does not say.
	Process string
}

// Admission asks an instance of a cluster to make another one a member. Safe
// for concurrent use.
type Admission interface {
	// Ask sends instance's wish to join to the instance whose application
	// address is given, and to the leader that it names, within ctx. Without an error
	// that has said that instance is a member at its raft address; what it said is not
	// proven.
	Ask(ctx context.Context, applicationAddress string, instance domain.Instance) error
}

// JoinIntent is what an instance remembers, through restarts, of its wish to be a member. Its
// methods wait for the disk. Safe for concurrent use.
type JoinIntent interface {
	// Pending says whether Begin was called, and not yet End.
	Pending() (bool, error)
	Begin() error
	End() error
}
