package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
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
	// maxOpen is how many connections peers may have to this instance. Each needs
	// less than ten; without a secret anybody is a peer.
	maxOpen = 256
	// maxBatch is how many entries go into one append, to disk and to a peer.
	maxBatch = 256
	// commitTimeout is how soon, with no writes flowing, followers hear what is
	// committed where the announcement of it did not come.
	commitTimeout = 50 * time.Millisecond
)

// Node is one raft instance. It implements ports.Registry, ports.Local,
// ports.Membership, ports.Promotions, ports.Formats, ports.Restorer and ports.ReadIndexer. Claim, then Open, before
// the rest; Close when all who use it are done. Its methods are safe for
// concurrent use.
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
	asking     rounds // questions to the leader, where another instance is that
	inflight   inflight
	writes     groupCommit

	told atomic.Uint64 // the latest term in which this instance told another one to take over

	directory *logstore.Directory
	store     logstore.Store
	logs      *baseLog  // store, as raft reads it
	disk      *disk     // store, with a watch over it
	ahead     *ahead    // disk, as far as a leader has come
	newest    *prepared // snapshot, read before raft starts
	unusable  []string  // snapshots, which raft must not see
	growth    *growth
	stream    *stream
	witness   *witness
	raft      *raft.Raft
	started   atomic.Pointer[raft.Raft] // raft, for those who may come before it
	awake     raft.ReloadableConfig     // the timeouts with which raft stands for election

	// hooks are set by tests only.
	hooks testHooks

	membership chan struct{}   // holds a token while the membership is changed
	leadership chan bool       // raft's NotifyCh
	regrouped  chan struct{}   // holds a token when the membership may be another one
	looking    sync.Mutex      // held by who looks at raft to post what it says
	owner      string          // the cluster that the directory is known to belong to; guarded by looking
	adopting   sync.Mutex      // held by who makes this instance part of a cluster
	tuning     sync.Mutex      // held by who changes raft's settings
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
	stuckAfter time.Duration // zero: as long as it takes to be sure

	restorePartBytes int // zero: restorePartBytes
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
		growth:     newGrowth(),
	}
	n.running, n.stop = context.WithCancel(context.Background())
	n.heartbeats = newHeartbeats(n.running, n.beat)
	n.announced = newAnnouncements(n.running, n, n.announce)
	n.gate = &gate{leadership: n, evidence: n.evidence}
	n.writes.apply = func(entry []byte, patience time.Duration) raft.ApplyFuture { return n.raft.Apply(entry, patience) }
	n.writes.mayShare = func() bool { return n.Shared() >= n.formatOf(shared{}) }
	n.writes.answered = n.inflight.leave
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

// Claim takes the directory for this process, before anything is bound or
// started. Close gives it back.
func (n *Node) Claim(context.Context) error {
	directory, err := logstore.Claim(n.config.Directory, logstore.Owner{RaftID: n.config.ID, Backend: n.config.Backend.Name, Volatile: n.config.VolatileBackends})
	if err != nil {
		return err
	}
	n.directory = directory
	n.state.update(func(s *localState) { s.ClusterID = directory.ClusterID() })
	return nil
}

// Open opens the store and starts raft. It waits for no other instance. What it
// acquired before an error is released by Close.
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
	n.look()
	n.foresee()
	n.watching.Go(n.watchLeadership)
	n.watching.Go(n.watchRemoval)
	n.watching.Go(n.rememberPeers)
	n.watching.Go(n.watchLeader)
	if !n.mayBeTrusted() {
		n.watching.Go(n.leaveQuarantine)
	}
	n.watching.Go(n.cutLog)
	n.watching.Go(n.disk.watch)
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
	found, err := n.snapshots()
	if err != nil {
		return err
	}
	kept := describing{found}
	raising := newSharedLock() // see witness
	n.disk = newDisk(n.store, diskConfig{
		hangAfter: n.config.Timing.hangAfter(),
		self:      []byte(address),
		logger:    n.config.Logger,
		present:   n.directory.Present,
		leads:     n.isLeader,
		appended:  n.growth.appended,
		took:      n.config.Observer.Stored,
		changed:   n.postTrouble,
		halt:      n.halt,
		raising:   raising,
	})
	n.ahead = &ahead{
		logs:        &logs{disk: n.disk},
		leads:       n.isLeader,
		needsOthers: n.needsOthers,
		committed:   n.commitIndex,
		progress:    make(chan struct{}),
	}
	owing := owingLog{LogStore: n.ahead, owed: newOwed(), leads: n.leads, worth: n.growth.worth}
	n.logs = &baseLog{LogStore: owing, stored: n.ahead, applied: n.appliedIndex}
	based, err := newBasing(kept, n.logs)
	if err != nil {
		return err
	}
	snapshots, err := newMeasured(based, n.growth)
	if err != nil {
		return err
	}
	n.stream = newStream(n.port, n.network.Dial, address, n.preface())
	var network transport = newAddressed(newTransport(n.stream, settings.Logger))
	if n.hooks.transport != nil {
		network = n.hooks.transport(network)
	}
	network = muted{network, n.disk.refusal}
	n.witness = newWitness(network, n.evidence, &covered{n.logs, &n.started, n.appliedIndex}, &electorate{n.members, n.lastEntry}, func() uint64 { return n.state.read().Term })
	n.witness.steady, n.witness.owed, n.witness.log = n.isSteady, owing.owed, n.ahead
	n.witness.taken, n.witness.sends = n.announced.acknowledged, n.sends
	n.witness.raising = raising
	n.witness.tells = func() uint64 {
		term := n.currentTerm()
		n.told.Store(term)
		return term
	}
	exists, err := n.bootstrap(settings, n.store, snapshots, address)
	if err == nil {
		err = n.settleQuarantine(exists)
	}
	if err != nil {
		return err
	}
	n.awake.HeartbeatTimeout, n.awake.ElectionTimeout = settings.HeartbeatTimeout, settings.ElectionTimeout
	n.witness.ballot.begin(settings.HeartbeatTimeout, n.currentTerm, n.follows, n.unelectable)
	if !n.mayBeTrusted() {
		settings.HeartbeatTimeout, settings.ElectionTimeout = dormant, dormant
	}
	machine := newMachine(n.state, n.halt)
	machine.observer, machine.formatOf, machine.posted, machine.replaces = n.config.Observer, n.formatOf, n.announced.soon, n.logs.clear
	machine.prepared, n.newest = n.newest, nil
	var fsm raft.FSM = machine
	if n.hooks.fsm != nil {
		fsm = n.hooks.fsm(machine)
	}
	n.raft, err = raft.NewRaft(settings, fsm, n.logs, voteless{n.disk, n.mayBeTrusted}, snapshots, n.witness)
	if err != nil {
		return err
	}
	n.disk.armed.Store(true)
	n.started.Store(n.raft)
	return n.hurry()
}

// isLeader: see ahead.
func (n *Node) isLeader() bool {
	_, leads := n.leads()
	return leads
}

// needsOthers says whether a leader commits nothing by itself.
func (n *Node) needsOthers() bool {
	_, needed := n.quorum()
	return needed > 0
}

// members gives the latest membership in the log, once raft has started.
func (n *Node) members() []raft.Server {
	running := n.started.Load()
	if running == nil {
		return nil
	}
	return running.GetConfiguration().Configuration().Servers
}

// sends says whether this instance leads a term, and an instance is to have its log.
func (n *Node) sends(id raft.ServerID, term uint64) bool {
	now, leads := n.leads()
	return leads && now == term && slices.ContainsFunc(n.members(), func(s raft.Server) bool { return s.ID == id })
}

// currentTerm is raft's; 0 before it has started.
func (n *Node) currentTerm() uint64 {
	running := n.started.Load()
	if running == nil {
		return 0
	}
	return running.CurrentTerm()
}

// appliedIndex: see covered, and baseLog. Until raft has started it is 0.
func (n *Node) appliedIndex() uint64 {
	running := n.started.Load()
	if running == nil {
		return 0
	}
	return running.AppliedIndex()
}

// lastEntry gives what the log ends with; it is not known where that can't be read, or
// raft has not started.
func (n *Node) lastEntry() (index, term uint64, known bool) {
	running := n.started.Load()
	if running == nil {
		return 0, 0, false
	}
	index = running.LastIndex()
	if index == 0 {
		return 0, 0, true
	}
	if pending := n.ahead.find(index); pending != nil {
		return index, pending.Term, true // and nobody waits for the disk
	}
	var last raft.Log
	err := n.logs.GetLog(index, &last)
	return index, last.Term, err == nil
}

// isSteady: see witness. Until raft has started nothing is.
func (n *Node) isSteady(term uint64) bool {
	running := n.started.Load()
	return running != nil && running.State() == raft.Follower && term <= running.CurrentTerm()
}

// slack is by how much raft is started with too long a heartbeat timeout, for
// hurry to take back.
const slack = time.Nanosecond

// hurry has a lone voter stand for election now instead of after a heartbeat
// timeout: there is nobody whom it could hear from. Raft looks at once whether
// it has heard from a leader when that timeout gets shorter.
func (n *Node) hurry() error {
	if _, needed := n.quorum(); needed > 0 || !n.mayBeTrusted() {
		return nil
	}
	return n.retune(func(timing *raft.ReloadableConfig) { timing.HeartbeatTimeout -= slack })
}

// retune changes some of raft's settings, and leaves the others as they are.
func (n *Node) retune(change func(*raft.ReloadableConfig)) error {
	n.tuning.Lock()
	defer n.tuning.Unlock()
	timing := n.raft.ReloadableConfig()
	change(&timing)
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
	settings.Logger = raftLogger(n.config.Logger, func() bool { return n.state.read().Closed })
	if n.hooks.settings != nil {
		n.hooks.settings(settings)
	}
	settings.HeartbeatTimeout += slack
	settings.ElectionTimeout = max(settings.ElectionTimeout, settings.HeartbeatTimeout)
	return settings
}

func (n *Node) snapshots() (raft.SnapshotStore, error) {
	if n.config.Backend.Volatile {
		return &memorySnapshots{}, nil
	}
	return openSnapshots(n.directory.Path(), n.unusable, n.config.Logger)
}

// postTrouble has everybody know what is wrong with the disk.
func (n *Node) postTrouble() {
	n.state.update(func(s *localState) {
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
	for latest := n.state.read(); !latest.Closed; latest = n.state.read() {
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
	n.state.update(func(s *localState) { s.Closed = true })
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
	n.heartbeats.sending.Wait()
	n.announced.end()
	n.asking.end()
	n.watching.Wait()
	switch {
	case n.ahead != nil:
		faults = append(faults, n.ahead.Close())
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
	latest := n.state.read()
	state := latest.LocalState
	self, _ := state.Roster.Find(n.config.ID)
	if latest.address != "" && self.RaftAddress != latest.address {
		state.Elsewhere = self.RaftAddress
	}
	state.Staged = self.Suffrage != domain.Voter &&
		(slices.Contains(state.Promotions, n.config.ID) || latest.foreseen > latest.Applied)
	state.Member = state.Member && !latest.expelled
	state.Removed = latest.expelled ||
		!state.Member && state.ClusterID != "" && state.Quarantine == "" && len(state.Roster.Instances()) > 0
	return state, latest.later
}

// LeaderContact implements ports.Local.
func (n *Node) LeaderContact() (time.Duration, bool) {
	state := n.state.read()
	if !state.opened {
		return 0, false
	}
	at := n.leaderContact(state)
	if at.IsZero() {
		return 0, false
	}
	return max(0, time.Since(at)), true
}

// SureLeader implements ports.Local. Who acknowledged a heartbeat waits at least half
// a heartbeat timeout from then on before it votes for anybody else, also when it
// starts anew, unless that is told to take over by this instance: see ballot. A third
// of it leaves room for clocks. Who was told may stand for election however long raft
// has given up on it: it may have been paused before it read that.
func (n *Node) SureLeader() bool {
	state := n.state.read()
	if !state.Leading {
		return false
	}
	sure := time.Since(n.leaderContact(state)) < n.config.Timing.HeartbeatTimeout/3
	// Raft knows of a later term before the shared state does.
	term, leads := n.leads()
	return sure && leads && term == state.Term && term != n.told.Load()
}

// leaderContact is when this instance, whose state is given, heard from the
// leader, or a leader from a majority; zero for never.
func (n *Node) leaderContact(state *localState) time.Time {
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
