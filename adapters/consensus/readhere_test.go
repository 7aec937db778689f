package consensus

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// neverDeposed is for an instance that must not notice by itself that it is cut off: it goes
// on leading, or following its leader.
func neverDeposed(settings *raft.Config) {
	settings.HeartbeatTimeout, settings.ElectionTimeout = patience+1, patience+1
	settings.LeaderLeaseTimeout = patience
}

// readResult is the result of a read in the background.
type readResult struct {
	view domain.View
	err  error
}

func readHere(ctx context.Context, i *instance) <-chan readResult {
	read := make(chan readResult, 1)
	go func() {
		view, err := i.ReadHere(ctx)
		read <- readResult{view, err}
	}()
	return read
}

func briefly(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	tb.Cleanup(cancel)
	return ctx
}

func mustHold(t *testing.T, view domain.View, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, there := view.Node(id); !there {
			t.Errorf("a read at revision %d misses %q, which was acknowledged before", view.Revision(), id)
		}
	}
}

// mustReadHere repeats ReadHere until it succeeds, and returns the view.
func mustReadHere(t *testing.T, i *instance) domain.View {
	t.Helper()
	var view domain.View
	until(t, "ReadHere succeeds", func() bool {
		var err error
		view, err = i.ReadHere(within(t))
		if err != nil && !errors.Is(err, ports.ErrNoLeader) && !errors.Is(err, ports.ErrNotCaughtUp) {
			t.Fatal(err)
		}
		return err == nil
	})
	return view
}

// silentPeers is neighbours that send no ReadIndex while silent is set. Instances that are
// out of touch ask around whether they were removed, and the old leader's round for that
// would never end.
type silentPeers struct {
	neighbours
	silent *atomic.Bool
	unless bool
}

func (r silentPeers) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	if r.silent.Load() && !r.unless {
		return ports.ReadIndex{}, errors.New("no question while silent")
	}
	return r.neighbours.ReadIndex(ctx, raftAddress)
}

// The leader of a minority, to which answers were held back, gets a ReadIndex request from
// its only follower: see TestAHeldBackHeartbeatAnswerServesNoStaleRead.
func TestAFollowerOfADeposedLeaderServesNoStaleRead(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	pacing, stopPacing := context.WithCancel(t.Context())
	defer stopPacing()
	var silent atomic.Bool
	cluster := startCluster(t, 5, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.bootstrap {
			config.started = func(i *instance) { forceHeartbeats(pacing, i) }
		}
		config.peers = silentPeers{silent: &silent, unless: config.id == "instance-1"}
		if config.bootstrap || config.id == "instance-1" {
			config.hooks.settings = neverDeposed
			config.timing = func(timing *Timing) { timing.ElectionTimeout = patience }
		}
	})
	silent.Store(true)
	t.Cleanup(fabric.release)
	old, follower, others := cluster[0], cluster[1], cluster[2:]
	change := register(t, old, "before")
	follower.waitForRevision(t, change.Revision)

	fabric.holdAnswersTo(raft.ServerAddress(old.raftAddress()))
	until(t, "all heartbeats are answered, and all answers held back", func() bool { return fabric.heldAnswers() >= 4 })
	fabric.cut(raft.ServerAddress(old.raftAddress()), raft.ServerAddress(follower.raftAddress()))
	stopPacing()
	register(t, leaderOf(t, others), "after")

	rounds := old.evidence.now()
	read := readHere(within(t), follower)
	until(t, "the old leader began a round for the read", func() bool { return old.evidence.now() > rounds })
	verified := make(chan error, 1)
	asked := old.raft.VerifyLeader()
	go func() { verified <- asked.Error() }()
	drainMainLoop(old)
	if old.raft.State() != raft.Leader || string(leaderAt(follower)) != old.config.ID {
		t.Fatal("the old leader or its follower has noticed the new leader, so the test shows nothing")
	}
	fabric.release()
	if err := <-verified; err != nil {
		t.Errorf("VerifyLeader = %v, want success: raft no longer falls into the trap that this test sets", err)
	}
	if got := <-read; !errors.Is(got.err, ports.ErrNoLeader) {
		t.Errorf("ReadHere of a deposed leader's follower = revision %d, %v, want ErrNoLeader: revision 2 was acknowledged elsewhere", got.view.Revision(), got.err)
	}
	// Later reads fail too, until the two hear of the new leader.
	if view, err := follower.ReadHere(briefly(t)); err == nil {
		t.Errorf("later ReadHere = revision %d, want an error", view.Revision())
	}
	silent.Store(false)
	for _, i := range []*instance{old, follower} {
		fabric.mend(raft.ServerAddress(i.raftAddress()))
	}
	for _, i := range []*instance{old, follower} {
		mustHold(t, mustReadHere(t, i), "before", "after")
	}
}

func leaderAt(i *instance) raft.ServerID {
	_, id := i.raft.LeaderWithID()
	return id
}

// startTrio starts a leader, a follower whose ReadIndex requests the test decides on and
// which it can cut off from the log, and a third instance for a majority.
func startTrio(t *testing.T) (leader, follower *instance, asked *questions, fabric *network) {
	t.Helper()
	fabric, asked = newNetwork(), &questions{}
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.id == "instance-1" {
			config.peers = asked
			config.hooks.settings = neverDeposed
		}
	})
	return cluster[0], cluster[1], asked, fabric
}

func TestAFollowerThatLagsWaitsForWhatItLacks(t *testing.T) {
	leader, follower, _, fabric := startTrio(t)
	change := register(t, leader, "before")
	follower.waitForRevision(t, change.Revision)
	fabric.cut(raft.ServerAddress(follower.raftAddress()))
	register(t, leader, "after")
	if view, err := follower.ReadHere(briefly(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadHere of a lagging follower = revision %d, %v, want it to wait: it has no more than revision %d", view.Revision(), err, change.Revision)
	}
	read := readHere(within(t), follower)
	fabric.mend(raft.ServerAddress(follower.raftAddress()))
	got := receive(t, read, "the follower has the missing entries, but still waits")
	if got.err != nil {
		t.Fatal(got.err)
	}
	mustHold(t, got.view, "before", "after")
}

// The answer to a request is only for readers that came before the request was sent.
func TestAReadHereTakesNoAnswerToAnEarlierQuestion(t *testing.T) {
	leader, follower, asked, fabric := startTrio(t)
	change := register(t, leader, "before")
	follower.waitForRevision(t, change.Revision)
	answered, proceed := make(chan struct{}, 1), make(chan struct{})
	asked.let(func(_ context.Context, answer func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		index, err := answer()
		answered <- struct{}{}
		<-proceed
		return index, err
	})
	early := readHere(within(t), follower)
	receive(t, answered, "the leader was not asked")
	fabric.cut(raft.ServerAddress(follower.raftAddress()))
	register(t, leader, "after")
	late := readHere(within(t), follower)
	until(t, "the late reader waits", func() bool { return follower.asking.shared.Load() == 2 })
	close(proceed)
	if got := receive(t, early, "the early reader is not answered"); got.err != nil {
		t.Fatal(got.err)
	}
	receive(t, answered, "the leader was not asked again")
	select {
	case got := <-late:
		t.Fatalf("late ReadHere = revision %d, %v, on an answer from before revision 2", got.view.Revision(), got.err)
	case <-time.After(100 * time.Millisecond):
	}
	fabric.mend(raft.ServerAddress(follower.raftAddress()))
	got := receive(t, late, "the late reader is not answered")
	if got.err != nil {
		t.Fatal(got.err)
	}
	mustHold(t, got.view, "before", "after")
}

func TestReadersHereShareQuestions(t *testing.T) {
	const readers = 200
	leader, follower, asked, _ := startTrio(t)
	register(t, leader, "a")

	// A reader that comes alone costs one request. Any number that come together cost at
	// most two.
	for range 5 {
		before := asked.put.Load()
		if view, err := follower.ReadHere(within(t)); err != nil {
			t.Fatal(err)
		} else {
			mustHold(t, view, "a")
		}
		if n := asked.put.Load() - before; n != 1 {
			t.Errorf("requests of a lone reader = %d, want 1", n)
		}
	}
	putBefore, sharedBefore := asked.put.Load(), follower.asking.shared.Load()
	first, proceed := make(chan struct{}, 2), make(chan struct{})
	asked.let(func(_ context.Context, answer func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		first <- struct{}{}
		<-proceed
		return answer()
	})
	reads := []<-chan readResult{readHere(within(t), follower)}
	receive(t, first, "the first request waits for more readers")
	ctx := within(t)
	for range readers - 1 {
		reads = append(reads, readHere(ctx, follower))
	}
	until(t, "all readers wait", func() bool { return follower.asking.shared.Load()-sharedBefore == readers })
	close(proceed)
	for _, read := range reads {
		if got := receive(t, read, "a reader got no answer"); got.err != nil {
			t.Error(got.err)
		}
	}
	if n := asked.put.Load() - putBefore; n != 2 {
		t.Errorf("requests of %d readers = %d, want 2", readers, n)
	}
}

// An address can pass to another instance, which knows nothing of this log.
func TestAnAnswerThatIsNotTheLeadersIsNone(t *testing.T) {
	leader, follower, asked, _ := startTrio(t)
	register(t, leader, "a")
	change := func(change func(*ports.ReadIndex)) decision {
		return func(_ context.Context, answer func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
			index, err := answer()
			change(&index)
			return index, err
		}
	}
	fail := func(err error) decision {
		return func(context.Context, func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
			return ports.ReadIndex{}, err
		}
	}
	for name, test := range map[string]struct {
		decide decision
		says   string
	}{
		"another instance of the cluster":   {change(func(r *ports.ReadIndex) { r.RaftID = "instance-2" }), `"instance-2"`},
		"an instance of another cluster":    {change(func(r *ports.ReadIndex) { r.ClusterID = "other" }), `"other"`},
		"an instance that has no cluster":   {change(func(r *ports.ReadIndex) { r.ClusterID = "" }), `""`},
		"an instance that does not lead":    {fail(ports.ErrNotLeader), "leads, but can't be asked"},
		"an instance that is shutting down": {fail(ports.ErrClosed), "leads, but can't be asked"},
		"no instance":                       {fail(errCut), errCut.Error()},
		"no instance answers in time": {func(ctx context.Context, _ func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
			<-ctx.Done()
			return ports.ReadIndex{}, ctx.Err()
		}, context.DeadlineExceeded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			asked.let(test.decide)
			for who, ask := range map[string]func(context.Context) error{
				"read":   func(ctx context.Context) error { _, err := follower.ReadHere(ctx); return err },
				"roster": func(ctx context.Context) error { _, err := follower.RosterHere(ctx); return err },
			} {
				err := ask(within(t))
				if !errors.Is(err, ports.ErrNoLeader) || errors.Is(err, ports.ErrNotLeader) || errors.Is(err, ports.ErrClosed) ||
					errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s: error = %v, want ErrNoLeader with %s", who, err, test.says)
				}
			}
		})
	}
	asked.decide.Store(nil)
	mustHold(t, mustReadHere(t, follower), "a")
}

func TestAReaderHereThatGivesUpLeavesTheOthersTheirQuestion(t *testing.T) {
	leader, follower, asked, _ := startTrio(t)
	register(t, leader, "a")
	first, proceed := make(chan struct{}, 2), make(chan struct{})
	asked.let(func(_ context.Context, answer func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		first <- struct{}{}
		<-proceed
		return answer()
	})
	shortTimeouts, giveUp := context.WithCancel(t.Context())
	gaveUp := readHere(shortTimeouts, follower)
	receive(t, first, "the leader was not asked")
	other := readHere(within(t), follower)
	until(t, "the other reader waits", func() bool { return follower.asking.shared.Load() == 2 })
	giveUp()
	if got := receive(t, gaveUp, "the reader that gave up still waits"); !errors.Is(got.err, context.Canceled) {
		t.Errorf("ReadHere that was given up = %v, want context.Canceled", got.err)
	}
	close(proceed)
	if got := receive(t, other, "the other reader got no answer"); got.err != nil {
		t.Error(got.err)
	}
}

// A refusal is promised within a second, also to a reader that comes while an unanswered
// request is under way, and then shares the next one, which is not answered either.
func TestAReadHereIsRefusedInTime(t *testing.T) {
	_, follower, asked, _ := startTrio(t)
	asked.let(func(ctx context.Context, _ func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		<-ctx.Done()
		return ports.ReadIndex{}, ctx.Err()
	})
	refusedInTime(t, func() time.Duration {
		before := asked.put.Load() // the follower may have asked at its start
		first := readHere(within(t), follower)
		until(t, "the leader is asked", func() bool { return asked.put.Load() > before })
		began := time.Now()
		second := readHere(within(t), follower)
		for _, read := range []<-chan readResult{first, second} {
			if got := receive(t, read, "the reader still waits"); !errors.Is(got.err, ports.ErrNoLeader) {
				t.Errorf("ReadHere without an answer = %v, want ErrNoLeader", got.err)
			}
		}
		return time.Since(began)
	})
}
