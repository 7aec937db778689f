package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// patience bounds every wait of a test; it is reached only when something is
// wrong.
const patience = 20 * time.Second

// defaultTimeout is the heartbeat and the election timeout of instances whose test chooses
// none. It is so long that a leader stays one on a busy machine: most tests need the leader
// that they began with.
const defaultTimeout = time.Second

// shortTimeouts is for instances that often wait for their timeouts. Their leader must not
// be able to lose leadership meanwhile: it is alone, or its settings are neverDeposed.
func shortTimeouts(timing *Timing) {
	timing.HeartbeatTimeout, timing.ElectionTimeout = 150*time.Millisecond, 150*time.Millisecond
}

// instance is a Node with its own raft port.
type instance struct {
	*Node
	demux *demux.Demux
}

type instanceConfig struct {
	id        string
	directory string
	address   string // of the raft port; empty for any free one
	bootstrap bool
	secret    string
	open      logstore.Opener
	backend   string
	volatile  bool
	timing    func(*Timing)
	hooks     testHooks
	peers     ports.Peers // nil: neighbours
	logger    *slog.Logger
	started   func(*instance)
	fatal     func(error) // nil: an error fails the test
}

// newInstance makes an instance that is not started.
func newInstance(tb testing.TB, config instanceConfig) *instance {
	tb.Helper()
	if config.address == "" {
		config.address = "127.0.0.1:0"
	}
	if config.open == nil {
		config.open, config.backend = bolt.Open, "bolt"
	}
	if config.fatal == nil {
		config.fatal = func(err error) { tb.Errorf("Fatal of instance %s was called with %v", config.id, err) }
	}
	if config.peers == nil {
		config.peers = neighbours{}
	}
	if config.logger == nil {
		config.logger = slog.New(slog.DiscardHandler)
	}
	timing := Timing{
		HeartbeatTimeout:  defaultTimeout,
		ElectionTimeout:   defaultTimeout,
		SnapshotThreshold: 8192,
		SnapshotInterval:  30 * time.Second,
		TrailingLogs:      1024,
	}
	if config.timing != nil {
		config.timing(&timing)
	}
	port, err := demux.New(demux.Config{Address: config.address})
	if err != nil {
		tb.Fatal(err)
	}
	node, err := New(Config{
		ID:        config.id,
		Directory: config.directory,
		Backend:   logstore.Backend{Name: config.backend, Open: config.open, Volatile: config.volatile},
		Demux:     port,
		Peers:     config.peers,
		Bootstrap: config.bootstrap,
		Secret:    []byte(config.secret),
		Timing:    timing,
		Logger:    config.logger,
		Fatal:     config.fatal,
	})
	if err != nil {
		tb.Fatal(err)
	}
	node.hooks = config.hooks
	return &instance{Node: node, demux: port}
}

// start starts an instance and stops it when the test ends.
func start(tb testing.TB, config instanceConfig) *instance {
	tb.Helper()
	i := newInstance(tb, config)
	ctx := context.Background()
	tb.Cleanup(func() { i.stop(tb) })
	if err := errors.Join(i.Claim(ctx), i.demux.Open(ctx), i.Open(ctx)); err != nil {
		tb.Fatal(err)
	}
	i.makeReachable()
	if config.started != nil {
		config.started(i)
	}
	return i
}

// stop closes the instance. It may be called more than once.
func (i *instance) stop(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	instancesByAddress.CompareAndDelete(i.raftAddress(), i)
	if err := errors.Join(i.Close(ctx), i.demux.Close()); err != nil {
		tb.Errorf("stop of %s = %v, want success", i.config.ID, err)
	}
}

func (i *instance) raftAddress() string { return i.demux.Addr().String() }

// instancesByAddress has the *instance of this process at each raft address.
var instancesByAddress sync.Map

// makeReachable lets neighbours find i at its raft address.
func (i *instance) makeReachable() { instancesByAddress.Store(i.raftAddress(), i) }

// neighbours is ports.Peers among the instances of this process, without a network.
type neighbours struct{}

func (neighbours) Identify(_ context.Context, raftAddress string) (ports.Identity, error) {
	found, _ := instancesByAddress.Load(raftAddress)
	i, ok := found.(*instance)
	if !ok {
		return ports.Identity{}, errors.New("no instance at this address")
	}
	state, _ := i.State()
	if state.Closed {
		return ports.Identity{}, errors.New("the instance is closed")
	}
	return ports.Identity{
		RaftID: i.config.ID, ClusterID: state.ClusterID, Applied: state.Applied, Format: Format, Quarantined: !trusted(state),
	}, nil
}

func (neighbours) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	found, _ := instancesByAddress.Load(raftAddress)
	i, ok := found.(*instance)
	if !ok {
		return ports.ReadIndex{}, errors.New("no instance at this address")
	}
	index, err := i.ReadIndex(ctx)
	if err != nil {
		return ports.ReadIndex{}, err
	}
	state := i.state.read()
	return ports.ReadIndex{RaftID: i.config.ID, ClusterID: state.ClusterID, Index: index, Members: state.LastCommitted().Roster.IDs()}, nil
}

// questions counts the ReadIndex requests of one instance, and lets a test decide what
// becomes of each.
type questions struct {
	neighbours
	put    atomic.Int64
	decide atomic.Pointer[decision] // nil: every request is answered
}

// decision decides what becomes of a request; answer sends it to its addressee.
type decision func(ctx context.Context, answer func() (ports.ReadIndex, error)) (ports.ReadIndex, error)

func (q *questions) let(d decision) { q.decide.Store(&d) }

func (q *questions) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	q.put.Add(1)
	answer := func() (ports.ReadIndex, error) { return q.neighbours.ReadIndex(ctx, raftAddress) }
	if decide := q.decide.Load(); decide != nil {
		return (*decide)(ctx, answer)
	}
	return answer()
}

// eventually waits until the state of i is as wanted; what says in the failure what was
// wanted.
func (i *instance) eventually(tb testing.TB, what string, wanted func(ports.LocalState) bool) {
	tb.Helper()
	deadline := time.After(patience)
	for {
		state, later := i.State()
		if wanted(state) {
			return
		}
		select {
		case <-later:
		case <-deadline:
			tb.Fatalf("%s did not become %s in time, state = %+v", i.config.ID, what, state)
		}
	}
}

func leading(s ports.LocalState) bool { return s.Leading }

// startCluster starts a cluster of the given size. The first instance leads.
func startCluster(tb testing.TB, size int, configure func(*instanceConfig)) []*instance {
	tb.Helper()
	cluster := make([]*instance, size)
	for i := range cluster {
		config := instanceConfig{
			id:        fmt.Sprintf("instance-%d", i),
			directory: tb.TempDir(),
			bootstrap: i == 0,
		}
		if configure != nil {
			configure(&config)
		}
		cluster[i] = start(tb, config)
	}
	leader := cluster[0]
	leader.eventually(tb, "leading", leading)
	for _, joining := range cluster[1:] {
		addVoter(tb, leader, joining)
		joining.eventually(tb, "a member that has caught up", func(s ports.LocalState) bool {
			return s.Member && s.CaughtUp && s.LeaderID == leader.config.ID
		})
	}
	return cluster
}

// tellFormats tells each instance that all others read this build's format, as the watch
// does in production.
func tellFormats(tb testing.TB, cluster []*instance) {
	tb.Helper()
	for _, i := range cluster {
		i.eventually(tb, "aware of all members", func(s ports.LocalState) bool { return len(s.Roster.Instances()) == len(cluster) })
		for _, other := range cluster {
			i.Heard(other.config.ID, Format)
		}
	}
}

// addVoter makes joining a voter, by way of nonvoter, as the use cases do.
func addVoter(tb testing.TB, leader, joining *instance) {
	tb.Helper()
	for _, suffrage := range []domain.Suffrage{domain.Nonvoter, domain.Voter} {
		err := leader.Add(within(tb), domain.Instance{
			ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: suffrage,
		})
		if err != nil {
			tb.Fatal(err)
		}
		joining.eventually(tb, "out of quarantine and a "+string(suffrage), func(s ports.LocalState) bool {
			self, _ := s.Roster.Find(joining.config.ID)
			return trusted(s) && self.Suffrage == suffrage
		})
	}
}

func trusted(s ports.LocalState) bool { return s.Quarantine == "" }

func within(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// leaderOf waits until one of the instances leads, and returns it.
func leaderOf(tb testing.TB, cluster []*instance) *instance {
	tb.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for _, i := range cluster {
			if state, _ := i.State(); state.Leading {
				return i
			}
		}
		_, later := cluster[0].State()
		select {
		case <-later:
		case <-time.After(5 * time.Millisecond):
		}
	}
	tb.Fatal("no instance leads")
	return nil
}

func node(tb testing.TB, id, address string) domain.CacheNode {
	tb.Helper()
	n, err := domain.NewCacheNode(domain.NodeSpec{ID: id, Address: address})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func register(tb testing.TB, i *instance, id string) domain.Change {
	tb.Helper()
	changes, err := i.Propose(within(tb), domain.Register{Node: node(tb, id, id+":11211")})
	if err != nil {
		tb.Fatalf("register %s = %v, want success", id, err)
	}
	return changes[0]
}

func receive[T any](t *testing.T, from <-chan T, otherwise string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal(otherwise)
		panic("unreachable")
	}
}
