package consensus

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func nonvoter(id string) domain.Instance {
	return domain.Instance{ID: id, RaftAddress: id + ".invalid:1", Suffrage: domain.Nonvoter}
}

// heartbeatsOnly is a transport that, once it holds back, lets followers hear
// that their leader lives, but gives them nothing of its log until through is
// closed.
type heartbeatsOnly struct {
	transport
	holdsBack *atomic.Bool
	through   <-chan struct{}
}

func (h heartbeatsOnly) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (h heartbeatsOnly) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(args.Entries) > 0 && h.holdsBack.Load() {
		<-h.through
	}
	return h.transport.AppendEntries(id, to, args, resp)
}

// A change that somebody gave up waiting for is still under way: until it is
// decided nobody may be told that it is done, and none may be built upon it.
func TestAChangeThatIsNotCommittedIsNotAnswered(t *testing.T) {
	through := make(chan struct{})
	var holdsBack atomic.Bool
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
	})
	letThrough := sync.OnceFunc(func() { close(through) })
	t.Cleanup(letThrough) // before the cluster is stopped
	leader := cluster[0]
	holdsBack.Store(true)
	briefly := func(change func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return change(ctx)
	}
	add := func(ctx context.Context) error { return leader.Add(ctx, nonvoter("c")) }
	ctx, giveUp := context.WithCancel(t.Context())
	before, added := leader.raft.LastIndex(), make(chan error, 1)
	go func() { added <- add(ctx) }()
	until(t, "the change is in the log", func() bool { return leader.raft.LastIndex() > before })
	giveUp()
	if err := receive(t, added, "who gave up waits on"); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("who gave up was told %v", err)
	}
	if err := briefly(add); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("who asked for the same was told %v, while it was not committed", err)
	}
	remove := func(ctx context.Context) error { return leader.Remove(ctx, "c") }
	if err := briefly(remove); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("who asked for the opposite was told %v", err)
	}
	letThrough()
	if err := add(within(t)); err != nil {
		t.Errorf("once it is committed: %v", err)
	}
	if err := remove(within(t)); err != nil {
		t.Errorf("the opposite afterwards: %v", err)
	}
}

// Raft would take the majority from the cluster for good.
func TestAVoterStaysWithoutWhichThereIsNoMajority(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	leader, needed, away := cluster[0], cluster[1], cluster[2]
	register(t, leader, "before")
	away.stop(t)
	member := func(i *instance) domain.Instance {
		return domain.Instance{ID: i.config.ID, RaftAddress: i.raftAddress(), Suffrage: domain.Nonvoter}
	}
	for name, err := range map[string]error{
		"removed":  leader.Remove(within(t), needed.config.ID),
		"demoted":  leader.Add(within(t), member(needed)),
		"its self": leader.Remove(within(t), leader.config.ID),
	} {
		if !errors.Is(err, ports.ErrNoMajorityLeft) || errors.Is(err, ports.ErrOutcomeUnknown) || err != nil && !strings.Contains(err.Error(), away.config.ID) {
			t.Errorf("%s: %v", name, err)
		}
	}
	register(t, leader, "after")
	if err := leader.Add(within(t), member(away)); err != nil {
		t.Errorf("who is away can't be made a nonvoter: %v", err)
	}
	if err := leader.Remove(within(t), away.config.ID); err != nil {
		t.Errorf("who is away can't be removed: %v", err)
	}
	if err := leader.Remove(within(t), needed.config.ID); err != nil {
		t.Errorf("of two, both of which answer, one can't be removed: %v", err)
	}
	register(t, leader, "alone")
}

// Who leads no more can't know whom the others can spare.
func TestADeposedLeaderDoesNotReportThatNoMajorityIsLeft(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, next, away := cluster[0], cluster[1], cluster[2]
	register(t, leader, "before")
	away.stop(t)
	rounds := leader.evidence.now()
	removed := make(chan error, 1)
	go func() { removed <- leader.Remove(within(t), next.config.ID) }()
	until(t, "it asks who is left", func() bool { return leader.evidence.now() == rounds+2 }) // a read, and that
	if err := leader.HandOver(within(t), next.config.ID); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, removed, "the removal is not answered"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("the removal ended with %v", err)
	}
}

// Its log would have to catch up before it could commit anything.
func TestAVoterThatLacksWhatWasWrittenIsNotLeftAlone(t *testing.T) {
	through := make(chan struct{})
	var holdsBack atomic.Bool
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
	})
	letThrough := sync.OnceFunc(func() { close(through) })
	t.Cleanup(letThrough) // before the cluster is stopped
	leader := cluster[0]
	holdsBack.Store(true)
	before, written := leader.raft.LastIndex(), make(chan error, 1)
	go func() {
		_, err := leader.Propose(within(t), domain.Register{Node: node(t, "a", "a:1")})
		written <- err
	}()
	until(t, "it is in the log", func() bool { return leader.raft.LastIndex() > before })
	if err := leader.CanSpare(within(t), leader.config.ID); !errors.Is(err, ports.ErrNoMajorityLeft) {
		t.Errorf("while it lacks that: %v", err)
	}
	letThrough()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if err := leader.CanSpare(within(t), leader.config.ID); err != nil {
		t.Errorf("when it has that: %v", err)
	}
}

// ended is a change of the membership that raft has answered.
type ended struct {
	raft.IndexFuture
	err error
}

func (e ended) Error() error { return e.err }

// Who is told that nothing happened asks another instance, which finds half of it done.
func TestAChangeOfTwoStepsMayBeMadeInPart(t *testing.T) {
	step := func(err error) change { return func() raft.IndexFuture { return ended{err: err} } }
	for name, test := range map[string]struct {
		steps []change
		want  error
	}{
		"both":     {[]change{step(nil), step(nil)}, nil},
		"none":     {[]change{step(raft.ErrNotLeader), step(nil)}, ports.ErrNotLeader},
		"only one": {[]change{step(nil), step(raft.ErrNotLeader)}, ports.ErrOutcomeUnknown},
	} {
		err := portError(commitChanges(test.steps))
		if !errors.Is(err, test.want) || test.want != ports.ErrNotLeader && errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Until it is a nonvoter it counts, wherever it is. What is on its way to it is held back:
// raft reads the id of a peer without a lock when an answer with entries comes in, and writes
// it, unchanged, with a new address.
func TestAVoterThatIsToBeANonvoterElsewhereNeedNotBeThere(t *testing.T) {
	through := make(chan struct{})
	var holdsBack atomic.Bool
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
	})
	t.Cleanup(func() { close(through) }) // before the cluster is stopped
	leader := cluster[0]
	register(t, leader, "before")
	holdsBack.Store(true)
	mustAdd(t, leader, domain.Instance{ID: cluster[1].config.ID, RaftAddress: "nowhere.invalid:1", Suffrage: domain.Nonvoter})
	register(t, leader, "after")
}

func TestALoneVoterHasNoSuccessor(t *testing.T) {
	i := startCluster(t, 1, nil)[0]
	err := i.HandOver(within(t), "")
	if !errors.Is(err, ports.ErrNoSuccessor) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("error %v, want ErrNoSuccessor", err)
	}
	if strings.Contains(err.Error(), "%!") {
		t.Errorf("it is put badly: %v", err)
	}
}

func TestANonvoterIsNoSuccessor(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	joining := start(t, instanceConfig{id: "b", directory: t.TempDir()})
	if err := leader.Add(within(t), domain.Instance{ID: "b", RaftAddress: joining.raftAddress(), Suffrage: domain.Nonvoter}); err != nil {
		t.Fatal(err)
	}
	if err := leader.HandOver(within(t), ""); !errors.Is(err, ports.ErrNoSuccessor) {
		t.Errorf("error %v, want ErrNoSuccessor", err)
	}
}

// mute is a transport that tells nobody to take over. It can be made to wait
// until it is given up instead, as it would with a peer that went silent.
type mute struct {
	transport
	silent <-chan struct{} // nil: it fails at once
	told   chan<- raft.ServerID
}

func (m mute) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	select {
	case m.told <- id:
	default:
	}
	if m.silent != nil {
		<-m.silent
	}
	return errCut
}

// Whoever hands over must not be told that a write may have happened.
func TestAHandOverThatFailsSaysThatNothingHappened(t *testing.T) {
	for name, test := range map[string]struct {
		silent  chan struct{}
		timeout time.Duration
		want    error
	}{
		"the voter can't be told":         {timeout: patience, want: ports.ErrNoSuccessor},
		"the asker's time is over before": {silent: make(chan struct{}), timeout: 50 * time.Millisecond, want: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 2, func(config *instanceConfig) {
				// In which a voter that lives is known to be fit, however busy the machine is.
				config.timing = func(timing *Timing) { timing.ElectionTimeout = 4 * time.Second }
				config.hooks.transport = func(inner transport) transport { return mute{inner, test.silent, nil} }
			})
			if test.silent != nil {
				t.Cleanup(func() { close(test.silent) })
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
			defer cancel()
			err := cluster[0].HandOver(ctx, "")
			if !errors.Is(err, test.want) || errors.Is(err, ports.ErrOutcomeUnknown) || errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

// A leader that hears from nobody loses leadership before it can give it away: nobody has it then.
func TestALeaderThatIsDeposedHasHandedNothingOver(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		// A voter is waited for far longer than the leader leads without any.
		config.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = time.Second, 4*time.Second }
	})
	leader, other := cluster[0], cluster[1]
	fabric.cut(raft.ServerAddress(other.raftAddress()))
	until(t, "it seems unfit", func() bool {
		return time.Since(leader.evidence.lastHeard(raft.ServerID(other.config.ID))) > leader.config.Timing.HeartbeatTimeout/2
	})
	if err := leader.HandOver(within(t), ""); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error %v, want ErrNotLeader", err)
	}
}

// belated is a transport that tells a voter to take over when later is closed, and says
// at once that it could not.
type belated struct {
	transport
	told  chan<- raft.ServerID
	later <-chan struct{}
}

func (b belated) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	b.told <- id
	go func() {
		<-b.later
		_ = b.transport.TimeoutNow(id, to, args, resp)
	}()
	return errCut
}

// The one that takes over was told to before the next was waited for.
func TestAVoterThatTakesOverLateWasHandedLeadership(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	told, later := make(chan raft.ServerID, 1), make(chan struct{})
	tellNow := sync.OnceFunc(func() { close(later) })
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return belated{&faulty{inner, fabric}, told, later} }
		config.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = time.Second, 4*time.Second }
	})
	t.Cleanup(tellNow)
	leader, first, away := cluster[0], cluster[1], cluster[2]
	first.arrives(t, register(t, leader, "before").Revision)
	fabric.cut(raft.ServerAddress(away.raftAddress()))
	first.arrives(t, register(t, leader, "meanwhile").Revision)
	handed := make(chan error, 1)
	go func() { handed <- leader.HandOver(within(t), "") }()
	if id := receive(t, told, "nobody is told to take over"); id != raft.ServerID(first.config.ID) {
		t.Fatalf("%s is told first, which is cut off", id)
	}
	until(t, "raft gives up on the first, and lets the leader write", func() bool {
		_, err := leader.Propose(within(t), domain.Register{Node: node(t, "later", "later:11211")})
		if err != nil && !errors.Is(err, ports.ErrNotLeader) {
			t.Fatal(err)
		}
		return err == nil
	})
	tellNow()
	if err := receive(t, handed, "it waits for the one that is cut off"); err != nil {
		t.Errorf("leadership went to %s, and the answer is %v", first.config.ID, err)
	}
	first.eventually(t, "leading", leading)
}

// Raft turns the next voter away while it is still busy with the one before.
func TestAVoterThatIsSilentDoesNotKeepTheNextFromTakingOver(t *testing.T) {
	t.Parallel()
	silent, told := make(chan struct{}), make(chan raft.ServerID, 1)
	endSilence := sync.OnceFunc(func() { close(silent) })
	var first atomic.Pointer[raft.ServerID]
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return firstIsMute{inner, mute{inner, silent, told}, &first} }
	})
	t.Cleanup(endSilence)
	leader := cluster[0]
	handed := make(chan error, 1)
	go func() { handed <- leader.HandOver(within(t), "") }()
	dead := <-told
	select {
	case err := <-handed:
		t.Fatalf("it gave up before the next voter could be asked: %v", err)
	case <-time.After(2 * leader.config.Timing.ElectionTimeout):
	}
	endSilence()
	if err := <-handed; err != nil {
		t.Fatal(err)
	}
	if next := leaderOf(t, cluster[1:]); next.config.ID == string(dead) {
		t.Errorf("%s took over, which was not told to", dead)
	}
}

// firstIsMute does not get through to the first voter that it tells to take over.
type firstIsMute struct {
	transport
	mute  mute
	first *atomic.Pointer[raft.ServerID]
}

func (f firstIsMute) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if f.first.CompareAndSwap(nil, &id) || *f.first.Load() == id {
		return f.mute.TimeoutNow(id, to, args, resp)
	}
	return f.transport.TimeoutNow(id, to, args, resp)
}

func TestHandOverPrefersAVoterThatLives(t *testing.T) {
	told := make(chan raft.ServerID, 8)
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return listening{inner, told} }
	})
	leader, dead := cluster[0], cluster[1]
	dead.stop(t)
	// From the first heartbeat on that only the other one answers.
	gone := leader.evidence.lastHeard(raft.ServerID(dead.config.ID))
	until(t, "the other one was heard from since", func() bool {
		return leader.evidence.lastHeard(raft.ServerID(cluster[2].config.ID)).After(gone)
	})
	if err := leader.HandOver(within(t), ""); err != nil {
		t.Fatal(err)
	}
	if first := <-told; string(first) != cluster[2].config.ID {
		t.Errorf("%s was told to take over, which is dead", first)
	}
	leaderOf(t, cluster[2:])
}

// listening notes who is told to take over.
type listening struct {
	transport
	told chan<- raft.ServerID
}

func (l listening) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	l.told <- id
	return l.transport.TimeoutNow(id, to, args, resp)
}

// voter is i as a voter, wherever it is now.
func voter(i *instance) domain.Instance {
	return domain.Instance{ID: i.config.ID, RaftAddress: i.raftAddress(), Suffrage: domain.Voter}
}

func mustAdd(t *testing.T, leader *instance, wanted domain.Instance) {
	t.Helper()
	if err := leader.Add(within(t), wanted); err != nil {
		t.Fatalf("add %+v: %v", wanted, err)
	}
	roster, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := roster.Find(wanted.ID); got != wanted {
		t.Fatalf("added %+v, and the roster has %+v", wanted, got)
	}
}

func TestAnInstanceThatMovedIsFollowedToItsNewAddress(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, old := cluster[0], cluster[2]
	old.stop(t)
	moved := start(t, instanceConfig{id: old.config.ID, directory: old.config.Directory})
	if moved.raftAddress() == old.raftAddress() {
		t.Fatal("it has not moved: the test shows nothing")
	}
	mustAdd(t, leader, voter(moved))
	change := register(t, leader, "after")
	moved.arrives(t, change.Revision)
	// It counts: without the other one nothing could be committed.
	cluster[1].stop(t)
	change = register(t, leader, "later")
	moved.arrives(t, change.Revision)
}

func TestAVoterThatWasMovedToWhereNobodyIsCountsAsDown(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 2, nil)
	leader, moved := cluster[0], cluster[1]
	// From the second write on raft has a connection to it that outlives the move: by that
	// it learns of it, or the leader's log would be ahead of its own.
	register(t, leader, "one")
	register(t, leader, "two")
	err := leader.Add(within(t), domain.Instance{ID: moved.config.ID, RaftAddress: "nowhere.invalid:1", Suffrage: domain.Voter})
	if err != nil && !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	leader.eventually(t, "no leader any more", func(s ports.LocalState) bool { return !s.Leading })
	// That one reaches the other, and so the two go on.
	moved.eventually(t, "leading", leading)
	err = moved.Add(within(t), domain.Instance{ID: moved.config.ID, RaftAddress: moved.raftAddress(), Suffrage: domain.Voter})
	if err != nil {
		t.Fatal(err)
	}
}

func TestARemovedInstanceMayComeBack(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, leaving := cluster[0], cluster[2]
	if err := leader.Remove(within(t), leaving.config.ID); err != nil {
		t.Fatal(err)
	}
	if err := leader.Remove(within(t), leaving.config.ID); !errors.Is(err, domain.ErrNoSuchInstance) {
		t.Errorf("removed again: %v", err)
	}
	change := register(t, leader, "meanwhile")
	if err := leader.Add(within(t), domain.Instance{ID: "new", RaftAddress: cluster[1].raftAddress(), Suffrage: domain.Nonvoter}); !errors.Is(err, domain.ErrAddressInUse) {
		t.Errorf("an address that is in use: %v", err)
	}
	mustAdd(t, leader, voter(leaving))
	leaving.arrives(t, change.Revision)
	leaving.eventually(t, "a member again", func(s ports.LocalState) bool { return s.Member && s.LeaderID != "" })
}

func TestALeaderThatIsDemotedStepsDownForAnother(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	old := cluster[0]
	demoted := voter(old)
	demoted.Suffrage = domain.Nonvoter
	if err := old.Add(within(t), demoted); err != nil {
		t.Fatal(err)
	}
	next := leaderOf(t, cluster[1:])
	change := register(t, next, "after")
	old.arrives(t, change.Revision)
	if state, _ := old.State(); state.Leading || !state.Member {
		t.Errorf("the one that was demoted: %+v", state)
	}
	for _, one := range cluster[1:] {
		if one == next {
			continue
		}
		less := voter(one)
		less.Suffrage = domain.Nonvoter
		mustAdd(t, next, less)
	}
	last := voter(next)
	last.Suffrage = domain.Nonvoter
	if err := next.Add(within(t), last); !errors.Is(err, domain.ErrLastVoter) {
		t.Errorf("the last voter is demoted: %v", err)
	}
	if err := next.Remove(within(t), next.config.ID); !errors.Is(err, domain.ErrLastVoter) {
		t.Errorf("the last voter is removed: %v", err)
	}
	mustAdd(t, next, voter(old))
	change = register(t, next, "last")
	old.arrives(t, change.Revision)
}

// A leader that proves that it leads has proven nothing of its last entries: the next leader need
// not have them.
func TestAnUncommittedMembershipIsNotRead(t *testing.T) {
	var holdsBack atomic.Bool
	through := make(chan struct{})
	cluster := startCluster(t, 3, func(c *instanceConfig) {
		c.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
	})
	letThrough := sync.OnceFunc(func() { close(through) })
	t.Cleanup(letThrough) // before the cluster is stopped
	leader := cluster[0]
	holdsBack.Store(true)
	added := make(chan error, 1)
	go func() { added <- leader.Add(within(t), nonvoter("new")) }()
	until(t, "raft goes by the new membership", func() bool {
		_, isMember := leader.roster().Find("new")
		return isMember
	})
	roster, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, isMember := roster.Find("new"); isMember {
		t.Errorf("it is read: %+v", roster.Instances())
	}
	letThrough()
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	if roster, err = leader.Roster(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, isMember := roster.Find("new"); !isMember {
		t.Errorf("it is committed, and is not read: %+v", roster.Instances())
	}
}
