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

// network lets a test interfere with the RPCs of a cluster.
type network struct {
	mu   sync.Mutex
	gone map[raft.ServerAddress]bool // these neither send nor receive
	hold raft.ServerAddress          // answers to the heartbeats of this one are held back
	held int
	free chan struct{} // closed to let the held answers go

	votes int // requests for votes while everybody was cut off: see onlyVoteRequests
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

// release lets the held answers go, and holds back no more. It may be called more than once.
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

// holdBack blocks if the answer to this heartbeat of from is to be held back.
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

// faulty is one instance's transport on that network. It has no pipeline, so that every RPC
// goes through its methods.
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

// until polls holds, for conditions whose change is not published anywhere; what says in the
// failure what was wanted.
func until(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-ticker.C {
		if time.Now().After(deadline) {
			tb.Fatalf("not in time: %s", what)
		}
	}
}

// A leader sends heartbeats, and is cut off before it gets the answers. Another leader is
// elected, and acknowledges a write. Then the old leader gets a read, and only then the
// answers. Raft's VerifyLeader trusts them.
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
			config.started = func(i *instance) { forceHeartbeats(pacing, i) }
		}
	})
	silent.Store(true)
	t.Cleanup(fabric.release)
	old, others := cluster[0], cluster[1:]
	oldAddress := raft.ServerAddress(old.raftAddress())
	register(t, old, "before")

	fabric.holdAnswersTo(oldAddress)
	until(t, "both heartbeats are answered, and both answers held back", func() bool { return fabric.heldAnswers() >= 2 })
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
	until(t, "the read has begun its round", func() bool { return old.evidence.now() > rounds })
	asked := old.raft.VerifyLeader()
	go func() { verified <- asked.Error() }()
	drainMainLoop(old)
	if old.raft.State() != raft.Leader {
		t.Fatal("the old leader has noticed the new leader, so the test shows nothing")
	}
	fabric.release()

	if err := <-verified; err != nil {
		t.Errorf("VerifyLeader = %v, want success: raft no longer falls into the trap that this test sets", err)
	}
	select {
	case got := <-read:
		t.Fatalf("Read of a deposed leader = revision %d, %v, want it to wait: revision 2 was acknowledged elsewhere", got.view.Revision(), got.err)
	case <-time.After(500 * time.Millisecond):
	}
	// The old leader learns of its successor, and the read ends.
	fabric.mend(oldAddress)
	if got := <-read; !errors.Is(got.err, ports.ErrNotLeader) {
		t.Errorf("Read = %v, want ErrNotLeader", got.err)
	}
}

// The same with the gate's own heartbeats: those of a read from before the other leader's
// write prove nothing to a read that came after it, and does not share their round.
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
	until(t, "both heartbeats are answered, and both answers held back", func() bool { return fabric.heldAnswers() >= 2 })
	fabric.cut(oldAddress)
	register(t, leaderOf(t, others), "after")
	shared := old.gate.rounds.shared.Load()
	late := read()
	until(t, "the late read waits for its round", func() bool { return old.gate.rounds.shared.Load() > shared })
	if old.raft.State() != raft.Leader {
		t.Fatal("the old leader has noticed the new leader, so the test shows nothing")
	}
	fabric.release()
	if err := <-early; err != nil {
		t.Errorf("early read = %v, want success: the answers did not come, so the test shows nothing", err)
	}
	select {
	case err := <-late:
		t.Fatalf("late Read of a deposed leader = %v, want it to wait: another leader has acknowledged a write before", err)
	case <-time.After(500 * time.Millisecond):
	}
	// The old leader learns of its successor, and the read ends.
	fabric.mend(oldAddress)
	if err := <-late; !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("late Read = %v, want ErrNotLeader", err)
	}
}

// drainMainLoop returns when raft's main loop has handled what was sent to it before. The
// loop chooses at random among channels that are ready, so each of these calls had an even
// chance to be handled last.
func drainMainLoop(i *instance) {
	for range 64 {
		_ = i.raft.BootstrapCluster(raft.Configuration{}).Error()
	}
}

// forceHeartbeats makes a leader that seldom sends heartbeats send them often.
func forceHeartbeats(ctx context.Context, i *instance) {
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

// pausableFSM is a state machine that applies nothing while holding is set, until proceed is
// closed.
type pausableFSM struct {
	*machine
	proceed <-chan struct{}
	holding *bool
	mu      *sync.Mutex
}

func (s pausableFSM) ApplyBatch(entries []*raft.Log) []any {
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
			config.hooks.fsm = func(m *machine) raft.FSM { return pausableFSM{m, proceed, &holding, &mu} }
		}
	})
	old, lagging, other := cluster[0], cluster[1], cluster[2]
	mu.Lock()
	holding = true
	mu.Unlock()
	// Without the third instance, only the lagging one can have the writes that the old
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
		"Read of the new leader": lagging.Read, "ReadHere of the new leader": lagging.ReadHere, "ReadHere of its follower": other.ReadHere,
	} {
		view, err := read(within(t))
		if err != nil {
			t.Fatalf("%s = %v, want success", who, err)
		}
		if _, there := view.Node("acknowledged"); !there {
			t.Errorf("%s: the acknowledged write is missing", who)
		}
	}
}
