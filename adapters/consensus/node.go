package consensus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// retainedSnapshots is how many snapshots stay on disk: the latest, and one
	// to fall back on.
	retainedSnapshots = 2
	// rpcTimeout bounds a raft RPC, a snapshot's by its size. A peer that was
	// cut off is noticed to be back no later than this.
	rpcTimeout = 2 * time.Second
	// pooledConns is how many idle connections to a peer are kept.
	pooledConns = 3
	// maxBatch is how many entries go into one append, to disk and to a peer.
	maxBatch = 256
	// cachedEntries spares the log store the reading of what was just written.
	cachedEntries = 1024
	// commitTimeout is how soon, with no writes flowing, followers hear what is
	// committed.
	commitTimeout = 20 * time.Millisecond
)

// Node is one raft instance. It implements ports.Registry, ports.Local,
// ports.Membership, ports.Promotions and ports.Progress. Claim, then Open, before
// the rest; Close when all who use it are done. Its methods are safe for
// concurrent use.
type Node struct {
	config   Config
	lane     *demux.Lane
	board    *board
	evidence *evidence
	gate     *gate
	asking   rounds // questions to the leader, where another instance is that
	inflight inflight
	pending  atomic.Int64 // bytes of writes that are on their way

	handingOver atomic.Int64 // how many are giving leadership away

	directory *logstore.Directory
	store     logstore.Store
	disk      *disk // store, as raft sees it
	growth    *growth
	stream    *stream
	witness   *witness
	raft      *raft.Raft

	// seams is where a test puts something in between; empty otherwise.
	seams seams

	membership chan struct{}   // holds a token while the membership is changed
	leadership chan bool       // raft's NotifyCh
	looking    sync.Mutex      // held by who looks at raft to post what it says
	running    context.Context // ends once Close has answered the writes in flight
	stop       context.CancelFunc
	closeOnce  sync.Once
	failOnce   sync.Once
	watching   sync.WaitGroup
}

type seams struct {
	transport  func(transport) transport
	fsm        func(*machine) raft.FSM
	settings   func(*raft.Config)
	stuckAfter time.Duration // zero: as long as it takes to be sure
}

// New takes RaftLane of config.Demux and acquires nothing else.
func New(config Config) (*Node, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Observer == nil {
		config.Observer = unobserved{}
	}
	n := &Node{
		config:     config,
		board:      newBoard(ports.LocalState{}),
		evidence:   newEvidence(),
		membership: make(chan struct{}, 1),
		leadership: make(chan bool, 16),
		growth:     newGrowth(),
	}
	n.running, n.stop = context.WithCancel(context.Background())
	n.gate = &gate{leadership: n, evidence: n.evidence}
	var err error
	n.lane, err = config.Demux.Lane(RaftLane, demux.LaneConfig{Handshake: func(conn net.Conn) (net.Conn, error) {
		return conn, n.preface().accept(conn)
	}})
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) preface() *preface {
	return &preface{
		raftID:    n.config.ID,
		clusterID: func() string { return n.board.read().ClusterID },
		secret:    n.config.Secret,
	}
}

// Claim takes the directory for this process, before anything is bound or
// started. Close gives it back.
func (n *Node) Claim(context.Context) error {
	directory, err := logstore.Claim(n.config.Directory, logstore.Owner{RaftID: n.config.ID, Backend: n.config.Backend})
	if err != nil {
		return err
	}
	n.directory = directory
	n.board.post(func(s *notice) { s.ClusterID = directory.ClusterID() })
	return nil
}

// Open opens the store and starts raft. It waits for no other instance. What it
// acquired before an error is released by Close.
func (n *Node) Open(context.Context) error {
	address := n.config.AdvertisedAddress
	if address == "" {
		address = n.lane.Addr().String()
	}
	if err := domain.CheckAdvertisedAddress("raft advertised address", address); err != nil {
		return err
	}
	store, err := n.config.OpenStore(n.directory.Path(), n.config.Logger)
	if err != nil {
		return fmt.Errorf("open the %s log store: %w", n.config.Backend, err)
	}
	n.store = store
	if err := n.start(address); err != nil {
		return fmt.Errorf("start raft on %s: %w", n.directory.Path(), err)
	}
	n.board.post(func(s *notice) { s.opened = true })
	n.look()
	n.watching.Go(n.watchLeadership)
	n.watching.Go(n.cutLog)
	return nil
}

func (n *Node) start(address string) (err error) {
	// Raft panics on a log that it can't read while it starts.
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("raft panicked, most likely over a log that it can't read: %v", fault)
		}
	}()
	settings := n.settings()
	snapshots, err := n.snapshots(settings)
	if err != nil {
		return err
	}
	n.disk = newDisk(n.store, diskConfig{
		hangAfter: n.config.Timing.hangAfter(),
		self:      []byte(address),
		logger:    n.config.Logger,
		appended:  n.growth.appended,
		changed:   n.postTrouble,
		halt:      n.halt,
	})
	logs, err := newLogs(n.disk)
	if err != nil {
		return err
	}
	n.stream = newStream(n.lane, address, n.preface())
	var network transport = addressed{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  n.stream,
		MaxPool: pooledConns,
		Timeout: rpcTimeout,
		Logger:  settings.Logger,
		// Entries keep the time that they were appended at; this is the format
		// that go-msgpack writes by default.
		MsgpackUseNewTimeFormat: true,
	})}
	if n.seams.transport != nil {
		network = n.seams.transport(network)
	}
	network = muted{network, n.disk.refusal}
	n.witness = newWitness(network, n.evidence, func() uint64 { return n.board.read().Term })
	if err := n.bootstrap(settings, n.store, snapshots, address); err != nil {
		return err
	}
	machine := newMachine(n.board, n.halt)
	machine.observer = n.config.Observer
	var fsm raft.FSM = machine
	if n.seams.fsm != nil {
		fsm = n.seams.fsm(machine)
	}
	n.raft, err = raft.NewRaft(settings, fsm, logs, n.disk, measured{snapshots, n.growth}, n.witness)
	if err != nil {
		return err
	}
	n.disk.armed.Store(true)
	return n.hurry()
}

// slack is by how much raft is started with too long a heartbeat timeout, for
// hurry to take back.
const slack = time.Nanosecond

// hurry has a lone voter stand for election now instead of after a heartbeat
// timeout: there is nobody whom it could hear from. Raft looks at once whether
// it has heard from a leader when that timeout gets shorter.
func (n *Node) hurry() error {
	if _, needed := n.quorum(); needed > 0 {
		return nil
	}
	timing := n.raft.ReloadableConfig()
	timing.HeartbeatTimeout -= slack
	return n.raft.ReloadConfig(timing)
}

func (n *Node) settings() *raft.Config {
	settings := raft.DefaultConfig()
	settings.LocalID = raft.ServerID(n.config.ID)
	settings.HeartbeatTimeout = n.config.Timing.HeartbeatTimeout
	settings.ElectionTimeout = n.config.Timing.ElectionTimeout
	settings.LeaderLeaseTimeout = n.config.Timing.leaderLease()
	settings.CommitTimeout = commitTimeout
	settings.SnapshotThreshold = n.config.Timing.SnapshotThreshold
	settings.SnapshotInterval = n.config.Timing.SnapshotInterval
	settings.TrailingLogs = n.config.Timing.TrailingLogs
	settings.MaxAppendEntries = maxBatch
	settings.BatchApplyCh = true
	settings.ShutdownOnRemove = false // who was removed may be added again
	settings.NoLegacyTelemetry = true
	settings.NotifyCh = n.leadership
	settings.Logger = raftLogger(n.config.Logger, func() bool { return n.board.read().Closed })
	if n.seams.settings != nil {
		n.seams.settings(settings)
	}
	settings.HeartbeatTimeout += slack
	settings.ElectionTimeout = max(settings.ElectionTimeout, settings.HeartbeatTimeout)
	return settings
}

func (n *Node) snapshots(settings *raft.Config) (raft.SnapshotStore, error) {
	if n.config.Volatile {
		return raft.NewInmemSnapshotStore(), nil
	}
	// Raft puts them into a folder "snapshots", each with its checksum, and
	// renames a snapshot into place only once it is on disk.
	return raft.NewFileSnapshotStoreWithLogger(n.directory.Path(), retainedSnapshots, settings.Logger)
}

// bootstrap makes a cluster of this instance alone, where that is asked for and
// the directory holds none.
func (n *Node) bootstrap(settings *raft.Config, logs raft.LogStore, snapshots raft.SnapshotStore, address string) error {
	exists, err := raft.HasExistingState(logs, n.store, snapshots)
	if err != nil {
		return err
	}
	log := n.config.Logger
	switch {
	case exists && n.config.Bootstrap:
		log.Info("the directory holds a raft cluster already: bootstrapping changes nothing",
			"directory", n.directory.Path(), "cluster_id", n.directory.ClusterID())
		return nil
	case !n.config.Bootstrap:
		return nil
	}
	if n.directory.ClusterID() == "" {
		if err := n.directory.SetClusterID(rand.Text()); err != nil {
			return err
		}
	}
	n.board.post(func(s *notice) { s.ClusterID = n.directory.ClusterID() })
	log.Info("bootstrapping a raft cluster", "cluster_id", n.directory.ClusterID(), "id", n.config.ID, "address", address)
	return raft.BootstrapCluster(settings, logs, n.store, snapshots, n.witness, raft.Configuration{
		Servers: []raft.Server{{ID: settings.LocalID, Address: raft.ServerAddress(address), Suffrage: raft.Voter}},
	})
}

// postTrouble has everybody know what is wrong with the disk.
func (n *Node) postTrouble() {
	n.board.post(func(s *notice) {
		s.DiskTrouble = ""
		if fault := n.disk.refusal(); fault != nil {
			s.DiskTrouble = fault.Error()
		}
	})
}

// halt reports what keeps this instance from going on, and blocks until Close
// begins. No longer: Close waits for the writes behind the one that can't be
// applied. See machine.halt.
func (n *Node) halt(err error) {
	n.fail(err)
	for latest := n.board.read(); !latest.Closed; latest = n.board.read() {
		<-latest.later
	}
}

func (n *Node) fail(err error) {
	n.failOnce.Do(func() { n.config.Fatal(err) })
}

// Close stops raft and releases everything, in the opposite order of Claim and
// Open, which it may follow at any point. Writes in flight get an answer first,
// as long as ctx allows. It does not hand over leadership: see HandOver. It may
// be called again.
func (n *Node) Close(ctx context.Context) error {
	var err error
	n.closeOnce.Do(func() { err = n.close(ctx) })
	return err
}

func (n *Node) close(ctx context.Context) error {
	n.board.post(func(s *notice) { s.Closed = true })
	n.inflight.end(ctx)
	n.stop()
	var faults []error
	if n.disk != nil {
		n.disk.letGo()
	}
	var stopped raft.Future
	if n.raft != nil {
		stopped = n.raft.Shutdown()
	}
	if n.witness != nil {
		// Raft waits for its goroutines, and those for the network.
		faults = append(faults, n.witness.Close())
	}
	if stopped != nil {
		faults = append(faults, stopped.Error())
	}
	n.gate.rounds.end()
	n.asking.end()
	n.watching.Wait()
	switch {
	case n.disk != nil:
		faults = append(faults, n.disk.Close())
	case n.store != nil:
		faults = append(faults, n.store.Close())
	}
	if n.directory != nil {
		faults = append(faults, n.directory.Close())
	}
	return errors.Join(faults...)
}

// State implements ports.Local.
func (n *Node) State() (ports.LocalState, <-chan struct{}) {
	latest := n.board.read()
	state := latest.LocalState
	state.Applied = latest.applied
	self, _ := state.Roster.Find(n.config.ID)
	state.Staged = self.Suffrage != domain.Voter && slices.Contains(state.Promotions, n.config.ID)
	return state, latest.later
}

// LeaderContact implements ports.Local.
func (n *Node) LeaderContact() (time.Duration, bool) {
	state := n.board.read()
	if !state.opened {
		return 0, false
	}
	at := n.leaderContact(state)
	if at.IsZero() {
		return 0, false
	}
	return max(0, time.Since(at)), true
}

// SureLeader implements ports.Local. Who acknowledged a heartbeat waits at least a
// heartbeat timeout from then on before it elects anybody else, unless it is asked to
// by this instance; half of that leaves room for clocks.
func (n *Node) SureLeader() bool {
	state := n.board.read()
	if !state.Leading || n.handingOver.Load() > 0 {
		return false
	}
	sure := time.Since(n.leaderContact(state)) < n.config.Timing.HeartbeatTimeout/2
	// Raft knows of a later term before the board does.
	term, leads := n.leads()
	return sure && leads && term == state.Term && n.handingOver.Load() == 0
}

// leaderContact is when this instance, whose state is given, heard from the
// leader, or a leader from a majority; zero for never.
func (n *Node) leaderContact(state *notice) time.Time {
	if !state.leads {
		if heard := n.witness.contact.Load(); heard != nil && heard.After(state.led) {
			return *heard
		}
		return state.led
	}
	others, needed := n.quorum()
	if needed == 0 {
		return time.Now()
	}
	// It was elected by a majority.
	at := n.evidence.majorityAt(others, needed, state.Term)
	if at.Before(state.elected) {
		return state.elected
	}
	return at
}
