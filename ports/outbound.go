package ports

import (
	"cmp"
	"context"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Registry is the replicated registry. On an instance that is not the leader, Propose
// and Read return ErrNotLeader and do nothing. Safe for concurrent use.
type Registry interface {
	// Propose replicates cmd and returns once this instance has applied it: the changes
	// that it made (see domain.Registry.Apply), or the *domain.Refusal. If leadership or
	// ctx ends while cmd is on its way, Propose returns ErrOutcomeUnknown. With any other
	// error nothing happened: ErrNotLeader, ErrNoLeader (this instance has led, but its
	// disk is in trouble), ErrBusy, ErrUpgrading, ErrClosed, or that of a ctx that had
	// ended before.
	Propose(ctx context.Context, cmd domain.Command) ([]domain.Change, error)

	// Read is linearizable: it returns a view with every change that any instance
	// answered before Read was called. Errors: ErrNotLeader, ErrNoLeader (as for
	// Propose), ErrClosed, or that of ctx.
	Read(ctx context.Context) (domain.View, error)

	// ReadHere is Read on any instance: one that does not lead asks the leader for a read
	// index. Concurrent calls share such a question. It returns ErrNoLeader instead of
	// ErrNotLeader.
	ReadHere(ctx context.Context) (domain.View, error)
}

// ReadIndex is the leader's answer to an instance that wants to answer reads.
type ReadIndex struct {
	// RaftID and ClusterID are those of the instance that answered.
	RaftID    string
	ClusterID string
	// Index is how far the log has to be applied: see ReadIndexer.
	Index uint64
	// Members are the ids of the cluster's members as the leader knows them; empty if
	// it does not tell.
	Members []string
}

// Local is what this instance knows without asking others, so it may be behind. Safe for
// concurrent use; it never blocks.
type Local interface {
	// State returns the latest state, and a channel that is closed once there is a
	// later one.
	State() (LocalState, <-chan struct{})

	// LeaderContact returns how long ago this instance heard from the leader, or, if it
	// leads, from a majority; false if it never has since it started.
	LeaderContact() (time.Duration, bool)

	// SureLeader reports, without asking others, whether this instance surely led when it
	// was called: it has heard from a majority so recently that nobody else can have been
	// elected. False may mean that it does not lead, or only that it can't be sure.
	SureLeader() bool
}

// LocalState is the state of one instance at one moment.
type LocalState struct {
	// View is the registry; it holds only what is committed.
	View domain.View
	// Roster is the latest membership in the log of this instance, committed or not.
	Roster domain.Roster
	// Committed are the latest memberships that this instance saw committed, in ascending
	// order of their indexes. The oldest are dropped. A snapshot from the leader leaves
	// only the last one.
	Committed []CommittedRoster
	// ClusterID is empty until this instance has learnt it.
	ClusterID string
	Term      uint64
	// Leading: this instance leads in Term and is able to serve.
	Leading bool
	// LeaderID and LeaderRaftAddress are empty while no leader is known.
	LeaderID          string
	LeaderRaftAddress string
	// InTouch: LeaderContact is at most the election timeout ago.
	InTouch bool
	// Member: Roster holds this instance, and it has not been told that it was Removed.
	Member bool
	// CaughtUp: since it started, this instance has applied everything that was
	// committed when it first heard from a leader.
	CaughtUp bool
	// Applied is the index of the log up to which View holds it.
	Applied uint64
	// Promotions are the ids of nonvoters that become voters once they have caught up, in
	// ascending order: see Promotions.
	Promotions []string
	// Staged: this instance is such a nonvoter. It does not count as a voter yet.
	Staged bool
	// Quarantine is why this instance neither votes nor acknowledges entries: its disk is
	// new or has lost what it held. That ends once it has been made a nonvoter and has
	// received everything that was committed by then. Empty: it is not in quarantine.
	Quarantine string
	// Removed: this instance was a member, and has been removed.
	Removed bool
	// RosterRaftAddress is the raft address under which Roster has this instance, if that
	// differs from its own; else empty. A leader can't reach it there.
	RosterRaftAddress string
	// DiskTrouble says what is wrong with the disk of this instance; empty if nothing is.
	// While there is trouble, it neither leads nor stands for election.
	DiskTrouble string
	// Closed: this instance is shutting down and does not serve any more.
	Closed bool
}

// LastCommitted returns the last membership that is known to be committed; zero if none is.
func (s LocalState) LastCommitted() CommittedRoster {
	if len(s.Committed) == 0 {
		return CommittedRoster{}
	}
	return s.Committed[len(s.Committed)-1]
}

// CommittedRoster is a membership that was committed at Index of the log.
type CommittedRoster struct {
	Index  uint64
	Roster domain.Roster
}

// Unready returns the reasons why this instance is not ready, in words for an operator;
// none if it is. joinStatus is what JoinStatus says.
func (s LocalState) Unready(joinStatus string) []string {
	var reasons []string
	if s.Closed {
		reasons = append(reasons, "it is shutting down")
	}
	switch {
	case s.Removed:
		reasons = append(reasons, "it was removed from the raft cluster: stop it, or add it again (PUT /raft/node on the leader)")
	case !s.Member && (s.Quarantine == "" || s.ClusterID == ""):
		waits := cmp.Or(joinStatus, "it waits to be added (PUT /raft/node on the leader)")
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

// Membership changes who belongs to the raft cluster. On an instance that is not the
// leader, all methods but RosterHere return ErrNotLeader. Changes are made one after the
// other. Safe for concurrent use.
type Membership interface {
	// Roster returns a committed membership with every change that was answered before
	// Roster was called. Errors are as for Registry.Read.
	Roster(ctx context.Context) (domain.Roster, error)

	// RosterHere is Roster on any instance: see Registry.ReadHere.
	RosterHere(ctx context.Context) (domain.Roster, error)

	// Add takes the steps of domain.Roster.StepsFor, or returns its refusal. If that would
	// demote a voter without which there is no majority, it returns ErrNoMajorityLeft.
	// Other errors are as for Registry.Propose. Add is idempotent.
	Add(ctx context.Context, instance domain.Instance) error

	// Remove ends the membership of the instance, if domain.Roster.CheckRemoval allows
	// it and a majority is left without it. Errors as for Add.
	Remove(ctx context.Context, id string) error

	// CanSpare checks, without a change, whether there is a majority of the voters
	// without the instance. It returns ErrNoMajorityLeft where Add or Remove would. Other
	// errors are as for Registry.Read.
	CanSpare(ctx context.Context, id string) error
}

// Leadership gives the leadership of this instance away. Safe for concurrent use.
type Leadership interface {
	// HandOver hands leadership over to the voter named by to, or, if that is empty, to
	// one that is up to date. It returns once this instance no longer leads. Errors:
	// ErrNotLeader (also if leadership is lost before a voter was told to take over),
	// domain.ErrNoSuchInstance, domain.ErrNotVoter, ErrNoSuccessor (also if to is this
	// instance), or that of ctx.
	HandOver(ctx context.Context, to string) error
}

// Promotions is the set of instances that become voters once they have caught up, and are
// nonvoters until then. It is replicated, so that the next leader continues the
// promotions. Instances other than the leader return ErrNotLeader. Safe for concurrent use.
type Promotions interface {
	// AddPromotion adds id to the set, RemovePromotion removes it. Both are idempotent.
	// Errors are those of Registry.Propose.
	AddPromotion(ctx context.Context, id string) error
	RemovePromotion(ctx context.Context, id string) error
}

// Formats tracks which formats of the log the instances of the cluster can read. Formats
// are numbered from 1; a build that reads a format reads all earlier ones. A command
// whose format not all instances can read is refused with ErrUpgrading. Safe for
// concurrent use; it never blocks.
type Formats interface {
	// Heard records the latest format that the instance named id says it reads, and
	// replaces what it said before. Less than 1 counts as 1. Instances that are not
	// members are forgotten.
	Heard(id string, format int)

	// Shared returns the latest format that every instance of the cluster is known to
	// read. An instance that has not been heard counts as 1.
	Shared() int

	// Written returns the latest format that may be in the log: the latest one that all
	// instances heard so far, and this one, can read. It is never less than what this
	// instance has applied since it started, whoever was added since.
	Written() int
}

// Restorer replaces the whole registry. Instances other than the leader return
// ErrNotLeader. Safe for concurrent use.
type Restorer interface {
	// Replace does what domain.Registry.Replace does, on every instance, and returns
	// once this instance has done it. No reader ever sees a part of it. How long it takes
	// depends on the size of with, but it waits for nothing longer than a few seconds. A
	// second call aborts one that is under way, which returns ErrBusy. Errors are those of
	// Registry.Propose; with all but ErrOutcomeUnknown nothing happened. Replace does not
	// modify with.
	Replace(ctx context.Context, with *domain.Replacement, expected *domain.Revision) (domain.Replaced, error)
}

// Peers asks other instances about themselves. Safe for concurrent use.
type Peers interface {
	// Identify asks the instance at raftAddress who it is.
	Identify(ctx context.Context, raftAddress string) (Identity, error)

	// ReadIndex asks the leader at raftAddress for a read index: see ReadIndexer. Errors:
	// ErrNotLeader, or why it could not be asked.
	ReadIndex(ctx context.Context, raftAddress string) (ReadIndex, error)
}

// Identity is what an instance tells about itself.
type Identity struct {
	RaftID             string
	ApplicationAddress string
	// ClusterID is empty while the instance belongs to no cluster.
	ClusterID string
	Version   string
	// Applied is the index up to which it has applied the log.
	Applied uint64
	// Format is the latest format of the log that it reads: see Formats. 0: it does not
	// say.
	Format int
	// Quarantined: it does not vote, and must not count as a voter: see
	// LocalState.Quarantine.
	Quarantined bool
	// Process identifies the running process: it is random for each one, so it tells
	// apart two processes with one RaftID, and is the same at every address of one
	// process. Empty: it does not say.
	Process string
}

// Admission asks an instance of a cluster to make another one a member. Safe
// for concurrent use.
type Admission interface {
	// Ask asks the instance at applicationAddress, and the leader to which that one
	// redirects, to make instance a member. Nil means that the cluster's answer was yes:
	// instance is a member at its raft address. The caller must not rely on that answer.
	Ask(ctx context.Context, applicationAddress string, instance domain.Instance) error
}

// JoinIntent remembers on disk, across restarts, that this instance asks to join. Its
// methods wait for the disk. Safe for concurrent use.
type JoinIntent interface {
	// JoinPending reports whether BeginJoin was called after the last EndJoin.
	JoinPending() (bool, error)
	BeginJoin() error
	EndJoin() error
}
