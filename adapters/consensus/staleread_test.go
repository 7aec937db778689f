package consensus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// network is what a test does to the RPCs of a cluster.
type network struct {
	mu   sync.Mutex
	gone map[raft.ServerAddress]bool // neither sends nor receives
	hold raft.ServerAddress          // whose heartbeats' answers are held back
	held int
	free chan struct{} // closed to let the held answers go

	votes int // asked for while everybody was cut off: see deaf
}

func newNetwork() *network {
	return &network{gone: map[raft.ServerAddress]bool{}, free: make(chan struct{})}
}

var errCut = errors.New("cut off by the test")

func (n *network) cut(addresses ...raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, address := range addresses {
		n.gone[address] = true
	}
}

func (n *network) mend(address raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.gone, address)
}

// release lets the held answers go, and holds back no more. It may be called
// again.
func (n *network) release() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hold != "" {
		n.hold = ""
		close(n.free)
	}
}

func (n *network) holdAnswersTo(address raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hold = address
}

func (n *network) heldAnswers() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

func (n *network) passes(from, to raft.ServerAddress) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone[from] || n.gone[to] {
		return errCut
	}
	return nil
}

// holdBack blocks when the answer to a heartbeat of from is to be held back.
func (n *network) holdBack(from raft.ServerAddress, args *raft.AppendEntriesRequest) {
	n.mu.Lock()
	holds := n.hold == from && args.PrevLogEntry == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
	if holds {
		n.held++
	}
	n.mu.Unlock()
	if holds {
		<-n.free
	}
}

// faulty is one instance's transport on that network. It has no pipeline, so
// that every RPC goes through it.
type faulty struct {
	transport
	network *network
}

func (f *faulty) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (f *faulty) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := f.network.passes(f.LocalAddr(), to); err != nil {
		return err
	}
	err := f.transport.AppendEntries(id, to, args, resp)
	f.network.holdBack(f.LocalAddr(), args)
	return err
}

func (f *faulty) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := f.network.passes(f.LocalAddr(), to); err != nil {
		return err
	}
	return f.transport.RequestVote(id, to, args, resp)
}

func (f *faulty) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := f.network.passes(f.LocalAddr(), to); err != nil {
		return err
	}
	return f.transport.RequestPreVote(id, to, args, resp)
}

// until polls, because what it waits for is not posted anywhere.
func until(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-ticker.C {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain: %s", what)
		}
	}
}

// A leader sends heartbeats, and is cut off before it sees the answers. Another
// one is elected, and a write acknowledged. Then the old leader is asked for a
// read, and only then finds the answers. Raft's VerifyLeader believes them.
func TestAHeldBackHeartbeatAnswerServesNoStaleRead(t *testing.T) {
	fabric := newNetwork()
	pacing, stopPacing := context.WithCancel(t.Context())
	defer stopPacing()
	var silent atomic.Bool
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.peers = silentPeers{silent: &silent}
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.bootstrap {
			// The old leader must not notice by itself that it is cut off.
			config.hooks.settings = func(settings *raft.Config) {
				settings.HeartbeatTimeout, settings.ElectionTimeout = patience+1, patience+1
				settings.LeaderLeaseTimeout = patience
			}
			config.started = func(i *instance) { pace(pacing, i) }
		}
	})
	silent.Store(true)
	t.Cleanup(fabric.release)
	old, others := cluster[0], cluster[1:]
	oldAddress := raft.ServerAddress(old.raftAddress())
	register(t, old, "before")

	fabric.holdAnswersTo(oldAddress)
	until(t, "both heartbeats answered, and both answers held", func() bool { return fabric.heldAnswers() >= 2 })
	fabric.cut(oldAddress)
	stopPacing()
	register(t, leaderOf(t, others), "after")

	rounds := old.evidence.now()
	type answer struct {
		view domain.View
		err  error
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	read, verified := make(chan answer, 1), make(chan error, 1)
	go func() {
		view, err := old.Read(ctx)
		read <- answer{view, err}
	}()
	until(t, "the read began its round", func() bool { return old.evidence.now() > rounds })
	asked := old.raft.VerifyLeader()
	go func() { verified <- asked.Error() }()
	settle(old)
	if old.raft.State() != raft.Leader {
		t.Fatal("the old leader has noticed already: the test shows nothing")
	}
	fabric.release()

	if err := <-verified; err != nil {
		t.Errorf("VerifyLeader: %v: it no longer falls into the trap that this test sets", err)
	}
	select {
	case got := <-read:
		t.Fatalf("a deposed leader answered a read, from revision %d (%v), after revision 2 was acknowledged elsewhere", got.view.Revision(), got.err)
	case <-time.After(500 * time.Millisecond):
	}
	// It hears of its successor, and the read ends.
	fabric.mend(oldAddress)
	if got := <-read; !errors.Is(got.err, ports.ErrNotLeader) {
		t.Errorf("error %v, want ErrNotLeader", got.err)
	}
}

// The same with the gate's own heartbeats: those of a read that came before the other
// write prove nothing to one that came after it, and shares no round with it.
func TestAHeldBackAnswerToAnEarlierReadServesNoStaleRead(t *testing.T) {
	fabric := newNetwork()
	var silent atomic.Bool
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.peers = silentPeers{silent: &silent}
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.bootstrap {
			config.hooks.settings = neverDeposed
		}
	})
	silent.Store(true)
	t.Cleanup(fabric.release)
	old, others := cluster[0], cluster[1:]
	oldAddress := raft.ServerAddress(old.raftAddress())
	register(t, old, "before")

	read := func() <-chan error {
		answered := make(chan error, 1)
		go func() {
			_, err := old.Read(within(t))
			answered <- err
		}()
		return answered
	}
	fabric.holdAnswersTo(oldAddress)
	early := read()
	until(t, "both heartbeats answered, and both answers held", func() bool { return fabric.heldAnswers() >= 2 })
	fabric.cut(oldAddress)
	register(t, leaderOf(t, others), "after")
	shared := old.gate.rounds.shared.Load()
	late := read()
	until(t, "the late read waits for its round", func() bool { return old.gate.rounds.shared.Load() > shared })
	if old.raft.State() != raft.Leader {
		t.Fatal("the old leader has noticed already: the test shows nothing")
	}
	fabric.release()
	if err := <-early; err != nil {
		t.Errorf("the early read: %v: the answers did not come, and the test shows nothing", err)
	}
	select {
	case err := <-late:
		t.Fatalf("a deposed leader answered a read (%v) that began after another one's write", err)
	case <-time.After(500 * time.Millisecond):
	}
	// It hears of its successor, and the read ends.
	fabric.mend(oldAddress)
	if err := <-late; !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error %v, want ErrNotLeader", err)
	}
}

// settle returns when raft's main loop has taken what was sent to it before. The
// loop chooses at random among the channels that have something, so each of
// these answers had an even chance to come after the rest.
func settle(i *instance) {
	for range 64 {
		_ = i.raft.BootstrapCluster(raft.Configuration{}).Error()
	}
}

// pace makes a leader whose own heartbeats are rare send them often.
func pace(ctx context.Context, i *instance) {
	i.watching.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				i.raft.VerifyLeader()
			case <-ctx.Done():
				return
			case <-i.running.Done():
				return
			}
		}
	})
}

// slow is a state machine that waits before it applies anything.
type slow struct {
	*machine
	proceed <-chan struct{}
	holding *bool
	mu      *sync.Mutex
}

func (s slow) ApplyBatch(entries []*raft.Log) []any {
	s.mu.Lock()
	holding := *s.holding
	s.mu.Unlock()
	if holding {
		<-s.proceed
	}
	return s.machine.ApplyBatch(entries)
}

// A follower has the entries of an acknowledged write in its log, but has not
// applied them when it becomes the leader.
func TestANewLeaderWhoseStateMachineLagsServesNoStaleRead(t *testing.T) {
	fabric := newNetwork()
	proceed := make(chan struct{})
	var (
		mu      sync.Mutex
		holding bool
	)
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.id == "instance-1" {
			config.hooks.fsm = func(m *machine) raft.FSM { return slow{m, proceed, &holding, &mu} }
		}
	})
	old, lagging, other := cluster[0], cluster[1], cluster[2]
	mu.Lock()
	holding = true
	mu.Unlock()
	// Without the third instance, only the lagging one can have what the old
	// leader acknowledges, and only it can lead afterwards.
	fabric.cut(raft.ServerAddress(other.raftAddress()))
	register(t, old, "acknowledged")
	old.stop(t)
	fabric.mend(raft.ServerAddress(other.raftAddress()))
	until(t, "the lagging instance leads", func() bool { return lagging.raft.State() == raft.Leader })

	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if view, err := lagging.Read(short); err == nil {
		t.Errorf("a leader that has applied nothing of its term served a read at revision %d", view.Revision())
	}
	if view, err := other.ReadHere(short); err == nil {
		t.Errorf("a leader that has applied nothing of its term let a follower serve a read at revision %d", view.Revision())
	}
	if state, _ := lagging.State(); state.Leading {
		t.Error("a leader that has not applied its log reports that it leads")
	}
	close(proceed)
	lagging.eventually(t, "leading", leading)
	for who, read := range map[string]func(context.Context) (domain.View, error){
		"the new leader": lagging.Read, "the new leader, here": lagging.ReadHere, "its follower": other.ReadHere,
	} {
		view, err := read(within(t))
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		if _, there := view.Node("acknowledged"); !there {
			t.Errorf("%s: the acknowledged write is missing", who)
		}
	}
}
