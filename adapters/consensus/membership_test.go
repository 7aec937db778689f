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

// A membership change whose caller gave up is still under way. Until its outcome is decided,
// no other caller may be told that it is done, and no change may be built upon it.
func TestAChangeThatIsNotCommittedIsNotAnswered(t *testing.T) {
	hold := newEntryHold()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, hold} }
	})
	t.Cleanup(hold.release) // before the cluster is stopped
	leader := cluster[0]
	hold.on.Store(true)
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
	if err := receive(t, added, "the caller that gave up still waits"); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("Add of a caller that gave up = %v, want ErrOutcomeUnknown", err)
	}
	if err := briefly(add); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("same Add before the commit = %v, want the deadline and no unknown outcome", err)
	}
	remove := func(ctx context.Context) error { return leader.Remove(ctx, "c") }
	if err := briefly(remove); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("Remove before the commit = %v, want the deadline and no unknown outcome", err)
	}
	hold.release()
	if err := add(within(t)); err != nil {
		t.Errorf("Add once the change is committed = %v, want success", err)
	}
	if err := remove(within(t)); err != nil {
		t.Errorf("Remove once the change is committed = %v, want success", err)
	}
}

// Raft itself would make the change, and the cluster would have no majority for good.
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
		"needed voter removed": leader.Remove(within(t), needed.config.ID),
		"needed voter demoted": leader.Add(within(t), member(needed)),
		"leader removed":       leader.Remove(within(t), leader.config.ID),
	} {
		if !errors.Is(err, ports.ErrNoMajorityLeft) || errors.Is(err, ports.ErrOutcomeUnknown) || err != nil && !strings.Contains(err.Error(), away.config.ID) {
			t.Errorf("%s: error = %v, want ErrNoMajorityLeft naming the voter that is down", name, err)
		}
	}
	register(t, leader, "after")
	if err := leader.Add(within(t), member(away)); err != nil {
		t.Errorf("demotion of a voter that is down = %v, want success", err)
	}
	if err := leader.Remove(within(t), away.config.ID); err != nil {
		t.Errorf("removal of a member that is down = %v, want success", err)
	}
	if err := leader.Remove(within(t), needed.config.ID); err != nil {
		t.Errorf("removal of one of two live voters = %v, want success", err)
	}
	register(t, leader, "alone")
}

// A deposed leader can't know which voter the others can spare.
func TestADeposedLeaderDoesNotReportThatNoMajorityIsLeft(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, next, away := cluster[0], cluster[1], cluster[2]
	register(t, leader, "before")
	away.stop(t)
	rounds := leader.evidence.now()
	removed := make(chan error, 1)
	go func() { removed <- leader.Remove(within(t), next.config.ID) }()
	until(t, "the leader asks which voters are alive", func() bool { return leader.evidence.now() == rounds+2 }) // one round for a read, and one for that
	if err := leader.HandOver(within(t), next.config.ID); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, removed, "the removal is not answered"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Remove = %v, want ErrNotLeader", err)
	}
}

// If the leader left, the voter would be the only one, and would have to get the missing
// entries before it could commit anything.
func TestAVoterThatLacksAWriteIsNotLeftAsTheOnlyVoter(t *testing.T) {
	hold := newEntryHold()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, hold} }
	})
	t.Cleanup(hold.release) // before the cluster is stopped
	leader := cluster[0]
	hold.on.Store(true)
	before, written := leader.raft.LastIndex(), make(chan error, 1)
	go func() {
		_, err := leader.Propose(within(t), domain.Register{Node: node(t, "a", "a:1")})
		written <- err
	}()
	until(t, "the write is in the log", func() bool { return leader.raft.LastIndex() > before })
	if err := leader.CanSpare(within(t), leader.config.ID); !errors.Is(err, ports.ErrNoMajorityLeft) {
		t.Errorf("CanSpare while the other voter lacks the write = %v, want ErrNoMajorityLeft", err)
	}
	hold.release()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if err := leader.CanSpare(within(t), leader.config.ID); err != nil {
		t.Errorf("CanSpare when the other voter has the write = %v, want success", err)
	}
}

// answeredChange is a membership change that raft has answered.
type answeredChange struct {
	raft.IndexFuture
	err error
}

func (e answeredChange) Error() error { return e.err }

// A client that is told that nothing happened would ask another instance, and find half of
// the change done.
func TestAChangeOfTwoStepsMayBeMadeInPart(t *testing.T) {
	step := func(err error) change { return func() raft.IndexFuture { return answeredChange{err: err} } }
	for name, test := range map[string]struct {
		steps []change
		want  error
	}{
		"both steps succeed":           {[]change{step(nil), step(nil)}, nil},
		"no step succeeds":             {[]change{step(raft.ErrNotLeader), step(nil)}, ports.ErrNotLeader},
		"only the first step succeeds": {[]change{step(nil), step(raft.ErrNotLeader)}, ports.ErrOutcomeUnknown},
	} {
		err := portError(commitChanges(test.steps))
		if !errors.Is(err, test.want) || test.want != ports.ErrNotLeader && errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("%s: error = %v, want ErrNotLeader if no step was made, ErrOutcomeUnknown if one was", name, err)
		}
	}
}

// The voter counts until it is a nonvoter, wherever it is. Messages to it are held back:
// raft reads the id of a peer without a lock when an answer to entries comes in, and writes
// the id, unchanged, together with a new address.
func TestAVoterMayBeDemotedAndMovedToAnAddressThatDoesNotAnswer(t *testing.T) {
	hold := newEntryHold()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, hold} }
	})
	t.Cleanup(hold.release) // before the cluster is stopped
	leader := cluster[0]
	register(t, leader, "before")
	hold.on.Store(true)
	mustAdd(t, leader, domain.Instance{ID: cluster[1].config.ID, RaftAddress: "nowhere.invalid:1", Suffrage: domain.Nonvoter})
	register(t, leader, "after")
}

func TestALoneVoterHasNoSuccessor(t *testing.T) {
	i := startCluster(t, 1, nil)[0]
	err := i.HandOver(within(t), "")
	if !errors.Is(err, ports.ErrNoSuccessor) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("HandOver = %v, want ErrNoSuccessor", err)
	}
	if strings.Contains(err.Error(), "%!") {
		t.Errorf("error text has a formatting fault: %v", err)
	}
}

func TestANonvoterIsNoSuccessor(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	joining := start(t, instanceConfig{id: "b", directory: t.TempDir()})
	if err := leader.Add(within(t), domain.Instance{ID: "b", RaftAddress: joining.raftAddress(), Suffrage: domain.Nonvoter}); err != nil {
		t.Fatal(err)
	}
	if err := leader.HandOver(within(t), ""); !errors.Is(err, ports.ErrNoSuccessor) {
		t.Errorf("HandOver = %v, want ErrNoSuccessor", err)
	}
}

// lostTimeoutNow is a transport that delivers no TimeoutNow. The call fails at once, or only
// when silent is closed, as with a peer that went silent.
type lostTimeoutNow struct {
	transport
	silent <-chan struct{} // nil: the call fails at once
	told   chan<- raft.ServerID
}

func (m lostTimeoutNow) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	select {
	case m.told <- id:
	default:
	}
	if m.silent != nil {
		<-m.silent
	}
	return errCut
}

// A caller that hands over leadership must not be told that a write may have happened.
func TestAHandOverThatFailsSaysThatNothingHappened(t *testing.T) {
	for name, test := range map[string]struct {
		silent  chan struct{}
		timeout time.Duration
		want    error
	}{
		"TimeoutNow fails":                   {timeout: patience, want: ports.ErrNoSuccessor},
		"the caller's deadline passes first": {silent: make(chan struct{}), timeout: 50 * time.Millisecond, want: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 2, func(config *instanceConfig) {
				// In this time a live voter is known to be fit, even on a busy machine.
				config.timing = func(timing *Timing) { timing.ElectionTimeout = 4 * time.Second }
				config.hooks.transport = func(inner transport) transport { return lostTimeoutNow{inner, test.silent, nil} }
			})
			if test.silent != nil {
				t.Cleanup(func() { close(test.silent) })
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
			defer cancel()
			err := cluster[0].HandOver(ctx, "")
			if !errors.Is(err, test.want) || errors.Is(err, ports.ErrOutcomeUnknown) || errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("HandOver = %v, want %v", err, test.want)
			}
		})
	}
}

// A leader without contact loses leadership before it can hand it over; no other instance
// has it then.
func TestAHandOverOfALeaderThatIsDeposedFails(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		// HandOver waits for a voter far longer than the leader leads without contact.
		config.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = time.Second, 4*time.Second }
	})
	leader, other := cluster[0], cluster[1]
	fabric.cut(raft.ServerAddress(other.raftAddress()))
	until(t, "the other voter seems unfit", func() bool {
		return time.Since(leader.evidence.lastHeard(raft.ServerID(other.config.ID))) > leader.config.Timing.HeartbeatTimeout/2
	})
	if err := leader.HandOver(within(t), ""); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("HandOver = %v, want ErrNotLeader", err)
	}
}

// lateTimeoutNow is a transport whose TimeoutNow fails at once, but is delivered when later
// is closed.
type lateTimeoutNow struct {
	transport
	told  chan<- raft.ServerID
	later <-chan struct{}
}

func (b lateTimeoutNow) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	b.told <- id
	go func() {
		<-b.later
		_ = b.transport.TimeoutNow(id, to, args, resp)
	}()
	return errCut
}

// The voter that takes over was told to before HandOver waited for the next one.
func TestAVoterThatTakesOverLateWasHandedLeadership(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	told, later := make(chan raft.ServerID, 1), make(chan struct{})
	tellNow := sync.OnceFunc(func() { close(later) })
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return lateTimeoutNow{&faulty{inner, fabric}, told, later} }
		config.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = time.Second, 4*time.Second }
	})
	t.Cleanup(tellNow)
	leader, first, away := cluster[0], cluster[1], cluster[2]
	first.waitForRevision(t, register(t, leader, "before").Revision)
	fabric.cut(raft.ServerAddress(away.raftAddress()))
	first.waitForRevision(t, register(t, leader, "meanwhile").Revision)
	handed := make(chan error, 1)
	go func() { handed <- leader.HandOver(within(t), "") }()
	if id := receive(t, told, "no voter is told to take over"); id != raft.ServerID(first.config.ID) {
		t.Fatalf("first told to take over = %s, which is cut off", id)
	}
	until(t, "raft gives up on the first voter, and lets the leader write", func() bool {
		_, err := leader.Propose(within(t), domain.Register{Node: node(t, "later", "later:11211")})
		if err != nil && !errors.Is(err, ports.ErrNotLeader) {
			t.Fatal(err)
		}
		return err == nil
	})
	tellNow()
	if err := receive(t, handed, "HandOver still waits for the voter that is cut off"); err != nil {
		t.Errorf("leadership went to %s, but HandOver = %v, want success", first.config.ID, err)
	}
	first.eventually(t, "leading", leading)
}

// Raft refuses a transfer to the next voter while that to the silent one is still under way.
func TestAVoterThatIsSilentDoesNotKeepTheNextFromTakingOver(t *testing.T) {
	t.Parallel()
	silent, told := make(chan struct{}), make(chan raft.ServerID, 1)
	endSilence := sync.OnceFunc(func() { close(silent) })
	var first atomic.Pointer[raft.ServerID]
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport {
			return firstTimeoutNowLost{inner, lostTimeoutNow{inner, silent, told}, &first}
		}
	})
	t.Cleanup(endSilence)
	leader := cluster[0]
	handed := make(chan error, 1)
	go func() { handed <- leader.HandOver(within(t), "") }()
	dead := <-told
	select {
	case err := <-handed:
		t.Fatalf("HandOver ended before it could ask the next voter: %v", err)
	case <-time.After(2 * leader.config.Timing.ElectionTimeout):
	}
	endSilence()
	if err := <-handed; err != nil {
		t.Fatal(err)
	}
	if next := leaderOf(t, cluster[1:]); next.config.ID == string(dead) {
		t.Errorf("%s took over although it was not told to", dead)
	}
}

// firstTimeoutNowLost is a transport that loses TimeoutNow to the first voter that is told,
// and delivers it to others.
type firstTimeoutNowLost struct {
	transport
	lostTimeoutNow lostTimeoutNow
	first          *atomic.Pointer[raft.ServerID]
}

func (f firstTimeoutNowLost) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if f.first.CompareAndSwap(nil, &id) || *f.first.Load() == id {
		return f.lostTimeoutNow.TimeoutNow(id, to, args, resp)
	}
	return f.transport.TimeoutNow(id, to, args, resp)
}

func TestHandOverPrefersAVoterThatLives(t *testing.T) {
	told := make(chan raft.ServerID, 8)
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return recordedTimeoutNow{inner, told} }
	})
	leader, dead := cluster[0], cluster[1]
	dead.stop(t)
	// Wait for a heartbeat that only the other voter has answered.
	gone := leader.evidence.lastHeard(raft.ServerID(dead.config.ID))
	until(t, "the other voter has answered since", func() bool {
		return leader.evidence.lastHeard(raft.ServerID(cluster[2].config.ID)).After(gone)
	})
	if err := leader.HandOver(within(t), ""); err != nil {
		t.Fatal(err)
	}
	if first := <-told; string(first) != cluster[2].config.ID {
		t.Errorf("first told to take over = %s, which is dead", first)
	}
	leaderOf(t, cluster[2:])
}

// recordedTimeoutNow is a transport that records which voters are told to take over.
type recordedTimeoutNow struct {
	transport
	told chan<- raft.ServerID
}

func (l recordedTimeoutNow) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	l.told <- id
	return l.transport.TimeoutNow(id, to, args, resp)
}

// voter returns i as a voter at its current address.
func voter(i *instance) domain.Instance {
	return domain.Instance{ID: i.config.ID, RaftAddress: i.raftAddress(), Suffrage: domain.Voter}
}

func mustAdd(t *testing.T, leader *instance, wanted domain.Instance) {
	t.Helper()
	if err := leader.Add(within(t), wanted); err != nil {
		t.Fatalf("Add(%+v) = %v, want success", wanted, err)
	}
	roster, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := roster.Find(wanted.ID); got != wanted {
		t.Fatalf("roster after Add(%+v) has %+v, want the same", wanted, got)
	}
}

func TestAnInstanceThatMovedIsFollowedToItsNewAddress(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, old := cluster[0], cluster[2]
	old.stop(t)
	moved := start(t, instanceConfig{id: old.config.ID, directory: old.config.Directory})
	if moved.raftAddress() == old.raftAddress() {
		t.Fatal("the instance has the same address, so the test shows nothing")
	}
	mustAdd(t, leader, voter(moved))
	change := register(t, leader, "after")
	moved.waitForRevision(t, change.Revision)
	// The moved voter counts: without the other voter, nothing could be committed.
	cluster[1].stop(t)
	change = register(t, leader, "later")
	moved.waitForRevision(t, change.Revision)
}

func TestAVoterThatWasMovedToADeadAddressCountsAsDown(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 2, nil)
	leader, moved := cluster[0], cluster[1]
	// From the second write on, raft has a connection to the voter that outlives the move.
	// Over that the voter learns of the move; otherwise the leader's log would be ahead of
	// its own.
	register(t, leader, "one")
	register(t, leader, "two")
	err := leader.Add(within(t), domain.Instance{ID: moved.config.ID, RaftAddress: "nowhere.invalid:1", Suffrage: domain.Voter})
	if err != nil && !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	leader.eventually(t, "deposed", func(s ports.LocalState) bool { return !s.Leading })
	// The moved instance still reaches the other, so the two can elect a leader.
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
		t.Errorf("second Remove = %v, want ErrNoSuchInstance", err)
	}
	change := register(t, leader, "meanwhile")
	if err := leader.Add(within(t), domain.Instance{ID: "new", RaftAddress: cluster[1].raftAddress(), Suffrage: domain.Nonvoter}); !errors.Is(err, domain.ErrAddressInUse) {
		t.Errorf("Add at an address in use = %v, want ErrAddressInUse", err)
	}
	mustAdd(t, leader, voter(leaving))
	leaving.waitForRevision(t, change.Revision)
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
	old.waitForRevision(t, change.Revision)
	if state, _ := old.State(); state.Leading || !state.Member {
		t.Errorf("state of the demoted leader = %+v, want a member that does not lead", state)
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
		t.Errorf("demotion of the last voter = %v, want ErrLastVoter", err)
	}
	if err := next.Remove(within(t), next.config.ID); !errors.Is(err, domain.ErrLastVoter) {
		t.Errorf("removal of the last voter = %v, want ErrLastVoter", err)
	}
	mustAdd(t, next, voter(old))
	change = register(t, next, "last")
	old.waitForRevision(t, change.Revision)
}

// Proof of leadership proves nothing about the last entries of the leader: the next leader
// need not have them.
func TestAnUncommittedMembershipIsNotRead(t *testing.T) {
	hold := newEntryHold()
	cluster := startCluster(t, 3, func(c *instanceConfig) {
		c.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, hold} }
	})
	t.Cleanup(hold.release) // before the cluster is stopped
	leader := cluster[0]
	hold.on.Store(true)
	added := make(chan error, 1)
	go func() { added <- leader.Add(within(t), nonvoter("new")) }()
	until(t, "raft uses the new membership", func() bool {
		_, isMember := leader.roster().Find("new")
		return isMember
	})
	roster, err := leader.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, isMember := roster.Find("new"); isMember {
		t.Errorf("roster before the commit = %+v, want the old membership", roster.Instances())
	}
	hold.release()
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	if roster, err = leader.Roster(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, isMember := roster.Find("new"); !isMember {
		t.Errorf("roster after the commit = %+v, want the new member in it", roster.Instances())
	}
}
