package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/stream"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// rpcTimeout bounds a raft RPC; raft scales it with the size of a snapshot. The
	// return of a peer that was cut off is noticed within this time.
	rpcTimeout = 2 * time.Second
	// pooledConns is how many idle connections to a peer are kept.
	pooledConns = 3
	// maxOpen is how many connections peers may have to this instance. A peer needs
	// fewer than ten; without a secret anybody is a peer.
	maxOpen = 256
	// maxBatch is how many entries go into one append, to disk and to a peer.
	maxBatch = 256
	// commitTimeout is how soon followers hear what is committed while there are no
	// writes, if the announcement of it was lost.
	commitTimeout = 50 * time.Millisecond
)

// Node is one raft instance. It implements ports.Registry, ports.Local,
// ports.Membership, ports.Promotions, ports.Formats, ports.Restorer, ports.ReadIndexer and
// ports.JoinIntent. Call Claim, then Open, before the other methods, and Close once
// nobody uses the node any more. Its methods are safe for concurrent use.
type Node struct {
	config     Config
	network    Network
	port       net.Listener
	state      *sharedState
	evidence   *evidence
	formats    *formats
	gate       *gate
	heartbeats *heartbeats
	announced  *announcements
	asking     rounds // questions to the leader while another instance leads
	inflight   inflight
	writes     groupCommit

	// transferred is the latest term in which this instance told another one to take over
	// leadership.
	transferred atomic.Uint64

	directory   *logstore.Directory
	store       logstore.Store
	disk        *disk.Store        // store, as raft is given it
	logs        *baseLog           // the log as raft sees it
	preloaded   *preloadedSnapshot // the latest snapshot, read before raft starts
	unusable    []string           // snapshots that raft must not see
	growth      *logGrowth
	stream      *stream.Stream
	interceptor *interceptor
	raft        *raft.Raft
	started     atomic.Pointer[raft.Raft] // raft; nil until it has started, for callers that may come before
	timeouts    raft.ReloadableConfig     // raft's election timeouts outside quarantine

	hooks testHooks // empty outside tests

	membership chan struct{}   // holds a token while the membership is being changed
	leadership chan bool       // raft's NotifyCh
	regrouped  chan struct{}   // holds a token when the membership may have changed
	refreshing sync.Mutex      // serializes refreshState
	owner      string          // the cluster that the directory is known to belong to; guarded by refreshing
	adopting   sync.Mutex      // serializes joining a cluster
	tuning     sync.Mutex      // serializes changes of raft's settings
	running    context.Context // ends once Close has answered the writes in flight
	stop       context.CancelFunc
	closeOnce  sync.Once
	failOnce   sync.Once
	watching   sync.WaitGroup
}

// testHooks let a test wrap or replace parts of a Node. The zero value changes nothing.
type testHooks struct {
	transport  func(transport) transport
	fsm        func(*machine) raft.FSM
	settings   func(*raft.Config)
	formatOf   func(entry any) int
	stuckAfter time.Duration // zero for the default of Node.stuckAfter

	restorePartBytes int // zero for the constant of that name
}

// New takes the raft port (RaftLane of config.Demux) and acquires nothing else.
func New(config Config) (*Node, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Observer == nil {
		config.Observer = unobserved{}
	}
	n := &Node{
		config:     config,
		state:      newSharedState(ports.LocalState{}),
		evidence:   newEvidence(),
		formats:    newFormats(Format),
		membership: make(chan struct{}, 1),
		leadership: make(chan bool, 16),
		regrouped:  make(chan struct{}, 1),
		growth:     newLogGrowth(),
	}
	n.running, n.stop = context.WithCancel(context.Background())
	n.heartbeats = newHeartbeats(n.running, n.beat)
	n.announced = newAnnouncements(n.running, n, n.announce)
	n.gate = &gate{leadership: n, evidence: n.evidence}
	n.writes = groupCommit{
		apply:    func(entry []byte, patience time.Duration) raft.ApplyFuture { return n.raft.Apply(entry, patience) },
		mayShare: func() bool { return n.Shared() >= n.formatOf(codec.CommandGroup{}) },
		answered: n.inflight.leave,
	}
	n.network = config.Network
	if n.network == nil {
		n.network = lane{config.Demux}
	}
	var err error
	n.port, err = n.network.Listen(func(conn net.Conn) error { return n.preface().Accept(conn) })
	if err != nil {
		return nil, err
	}
	return n, nil
}

// preface returns how this instance and a peer authenticate each other on a connection.
func (n *Node) preface() *preface.Preface {
	return &preface.Preface{
		Purpose:   preface.Raft,
		RaftID:    n.config.ID,
		ClusterID: func() string { return n.state.read().ClusterID },
		Secret:    n.config.Secret,
		Adopt:     n.adopt,
		Starting:  func() bool { return !n.state.read().judged },
		Trusted:   n.mayBeTrusted,
		Nonvoter:  n.isNonvoter,
	}
}

// Claim locks the directory for this process, before anything is bound or started.
// Close releases it.
func (n *Node) Claim(context.Context) error {
	directory, err := logstore.Claim(n.config.Directory, logstore.Owner{RaftID: n.config.ID, Backend: n.config.Backend.Name, Volatile: n.config.VolatileBackends})
	if err != nil {
		return err
	}
	n.directory = directory
	n.state.update(func(s *localState) { s.ClusterID = directory.ClusterID() })
	return nil
}

// Open opens the store and starts raft. It waits for no other instance. After an
// error, Close releases what Open had acquired.
func (n *Node) Open(ctx context.Context) error {
	address := n.config.AdvertisedAddress
	if address == "" {
		address = n.port.Addr().String()
	}
	if err := domain.CheckAdvertisedAddress("raft advertised address", address); err != nil {
		return err
	}
	if err := n.openStore(ctx); err != nil {
		return err
	}
	if err := n.start(address); err != nil {
		return fmt.Errorf("start raft on %s: %w", n.directory.Path(), err)
	}
	n.state.update(func(s *localState) { s.opened, s.address = true, address })
	n.refreshState()
	n.foresee()
	n.watching.Go(n.watchLeadership)
	n.watching.Go(n.watchRemoval)
	n.watching.Go(n.rememberPeers)
	n.watching.Go(n.watchLeader)
	if !n.mayBeTrusted() {
		n.watching.Go(n.leaveQuarantine)
	}
	n.watching.Go(n.makeDueSnapshots)
	n.watching.Go(n.disk.WatchDirectory)
	return nil
}

// start builds what raft is given, layer by layer as the package comment lists them, and
// starts raft.
func (n *Node) start(address string) (err error) {
	// Raft panics on a log that it can't read while it starts.
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("raft panicked, most likely over a log that it can't read: %v", fault)
		}
	}()
	settings := n.settings()
	stored, err := n.openSnapshotStore()
	if err != nil {
		return err
	}
	retention := newRetention()
	raising := newSharedLock() // see interceptorConfig
	n.buildLog(address, retention, raising)
	recorded, err := n.buildSnapshots(stored)
	if err != nil {
		return err
	}
	n.buildTransport(address, settings.Logger, retention, raising)
	exists, err := n.bootstrap(settings, recorded, address)
	if err == nil {
		err = n.decideQuarantine(exists)
	}
	if err != nil {
		return err
	}
	n.timeouts.HeartbeatTimeout, n.timeouts.ElectionTimeout = settings.HeartbeatTimeout, settings.ElectionTimeout
	n.interceptor.votes.start(settings.HeartbeatTimeout, n.currentTerm, n.follows, n.unelectable)
	if !n.mayBeTrusted() {
		settings.HeartbeatTimeout, settings.ElectionTimeout = neverTimeout, neverTimeout
	}
	n.raft, err = raft.NewRaft(settings, n.newFSM(), n.logs, voteGuard{n.disk, n.mayBeTrusted}, recorded, n.interceptor)
	if err != nil {
		return err
	}
	n.disk.RaftStarted()
	n.started.Store(n.raft)
	return n.electLoneVoter()
}

// buildLog builds the layers between raft and the log store.
func (n *Node) buildLog(address string, retention *retention, raising *sharedLock) {
	n.disk = disk.New(n.store, disk.Config{
		HangAfter:    n.config.Timing.hangAfter(),
		OwnAddress:   []byte(address),
		Logger:       n.config.Logger,
		CheckPresent: n.directory.Present,
		MaxBatch:     maxBatch,
		Leads:        n.isLeader,
		NeedsOthers:  n.needsOthers,
		Committed:    n.commitIndex,
		Verify:       verifyLog,
		Appended:     n.growth.appended,
		Stored:       n.config.Observer.Stored,
		Changed:      n.postTrouble,
		Fatal:        n.halt,
		Raising:      raising,
	})
	retaining := retainingLog{LogStore: n.disk, retention: retention, leads: n.leads, affordable: n.growth.affordableTrailing}
	n.logs = &baseLog{LogStore: retaining, stored: n.disk, applied: n.appliedIndex}
}

// buildSnapshots builds the layers between raft and the snapshot store. buildLog comes first.
func (n *Node) buildSnapshots(stored raft.SnapshotStore) (raft.SnapshotStore, error) {
	based, err := newBaseRecorder(metaAttacher{stored}, n.logs)
	if err != nil {
		return nil, err
	}
	return newSizeRecorder(based, n.growth)
}

// buildTransport builds the layers between raft and the network, and starts relaying what
// peers send. buildLog comes first.
func (n *Node) buildTransport(address string, logger hclog.Logger, retention *retention, raising *sharedLock) {
	n.stream = stream.New(stream.Config{Port: n.port, Dial: n.network.Dial, Advertised: address, Preface: n.preface()})
	var network transport = newAddressed(newTransport(n.stream, logger))
	if n.hooks.transport != nil {
		network = n.hooks.transport(network)
	}
	n.interceptor = newInterceptor(mutedTransport{network, n.disk.Fault}, interceptorConfig{
		evidence:     n.evidence,
		term:         func() uint64 { return n.state.read().Term },
		acknowledged: n.announced.acknowledged,
		retention:    retention,
		log:          n.disk,
		replicatesTo: n.replicatesTo,
		transferring: func() uint64 {
			term := n.currentTerm()
			raise(&n.transferred, term)
			return term
		},
		isSteady:   n.isSteady,
		filter:     &snapshotFilter{n.logs, &n.started, n.appliedIndex},
		electorate: &electorate{n.members, n.lastEntry},
		raising:    raising,
	})
}

// newFSM makes the state machine. It takes over the snapshot that was read before.
func (n *Node) newFSM() raft.FSM {
	machine := newMachine(n.state, n.halt)
	machine.observer, machine.formatOf = n.config.Observer, n.formatOf
	machine.afterApply, machine.dropReplaced = n.announced.soon, n.logs.dropReplaced
	machine.preloaded, n.preloaded = n.preloaded, nil
	if n.hooks.fsm != nil {
		return n.hooks.fsm(machine)
	}
	return machine
}

// openSnapshotStore opens the store of snapshots, in memory if the backend is volatile.
func (n *Node) openSnapshotStore() (raft.SnapshotStore, error) {
	if n.config.Backend.Volatile {
		return &snapshots.Memory{}, nil
	}
	return snapshots.Open(n.directory.Path(), n.unusable, n.config.Logger)
}

// postTrouble publishes what is wrong with the disk.
func (n *Node) postTrouble() {
	n.state.update(func(s *localState) {
		s.DiskTrouble = ""
		if fault := n.disk.Fault(); fault != nil {
			s.DiskTrouble = fault.Error()
		}
	})
}

// halt reports an error that this instance can't recover from, and blocks until Close
// begins. It must not block longer: Close waits for the writes behind the one that
// can't be applied. See machine.halt.
func (n *Node) halt(err error) {
	n.fail(err)
	for latest := n.state.read(); !latest.Closed; latest = n.state.read() {
		<-latest.later
	}
}

// fail reports, once, an error that this instance can't recover from.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() { n.config.Fatal(err) })
}

// Close stops raft and releases everything, in the opposite order of Claim and
// Open, also if one of them failed or was never called. Writes in flight are answered
// first, as long as ctx allows. It does not hand over leadership: see HandOver. It may
// be called again.
func (n *Node) Close(ctx context.Context) error {
	var err error
	n.closeOnce.Do(func() { err = n.close(ctx) })
	return err
}

func (n *Node) close(ctx context.Context) error {
	n.state.update(func(s *localState) { s.Closed = true })
	n.inflight.end(ctx)
	n.stop()
	var faults []error
	if n.disk != nil {
		n.disk.StopRetrying()
	}
	var stopped raft.Future
	if n.raft != nil {
		stopped = n.raft.Shutdown()
	}
	if n.interceptor != nil {
		// Raft's shutdown waits for its goroutines, and some of those wait for the network.
		faults = append(faults, n.interceptor.Close())
	}
	if stopped != nil {
		faults = append(faults, stopped.Error())
	}
	n.gate.rounds.end()
	n.heartbeats.sending.Wait()
	n.announced.end()
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
