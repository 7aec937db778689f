package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
)

// transport is all that raft uses of a transport; some of it raft finds only by type
// assertion.
type transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// interceptor is the transport that raft is given. It sees every RPC in both
// directions: it records what voters acknowledge as evidence, notes when a leader was
// heard from and how far that leader has committed, and answers, changes or holds
// back requests before raft sees them.
type interceptor struct {
	transport // towards the network
	config    interceptorConfig

	votes       *votePolicy
	unreachable *unreachablePeers
	rpcs        chan raft.RPC // to raft

	// firstCommit is the first commit index heard from a leader since the start; 0
	// until then.
	firstCommit atomic.Uint64
	// contact is when a leader was last heard from; nil if never.
	contact atomic.Pointer[time.Time]

	// beating is held, shared, while raft handles a heartbeat beside its main goroutine.
	// It is held alone while raft is given a RequestVote or a TimeoutNow. A heartbeat
	// handled at the same time would make raft a follower again, in the previous term.
	beating *sharedLock

	stopped  chan struct{}
	stopOnce sync.Once
	relaying sync.WaitGroup
	skipping sync.WaitGroup // goroutines that read from connections, which end with the transport
}

// interceptorConfig is what an interceptor works with. The zero value of an optional
// field leaves its part to raft alone.
type interceptorConfig struct {
	evidence *evidence
	// term returns this instance's term. A request of an earlier term does not come
	// from the current leader.
	term func() uint64

	// acknowledged is called with each request that another instance has accepted; optional.
	acknowledged func(raft.ServerID, *raft.AppendEntriesRequest)
	// retention keeps the log behind a snapshot that is being sent; optional.
	retention *retention
	// log is where entries may be sent before they are stored here; optional.
	log *disk.Store
	// replicatesTo says whether this instance leads term and still has to replicate to
	// id; optional. Without it, raft learns at once of each failure to send.
	replicatesTo func(id raft.ServerID, term uint64) bool
	// transferring is called before another instance is told to take over leadership, and
	// returns the term in which this instance leads; optional.
	transferring func() uint64

	// isSteady says whether a heartbeat of term changes neither raft's term nor its state;
	// optional: without it, every heartbeat counts as steady.
	isSteady func(term uint64) bool
	// filter removes what raft must not be given of a leader's requests; optional.
	filter *snapshotFilter
	// electorate decides which candidates raft takes for voters; optional.
	electorate *electorate
	// raising is held alone while raft's main goroutine stores a later term, and shared
	// while a heartbeat is handled, for the same reason as beating; optional.
	raising *sharedLock
}

// newInterceptor wraps inner and starts relaying RPCs to raft. Close ends that, and
// closes inner.
func newInterceptor(inner transport, config interceptorConfig) *interceptor {
	if config.acknowledged == nil {
		config.acknowledged = func(raft.ServerID, *raft.AppendEntriesRequest) {}
	}
	if config.retention == nil {
		config.retention = newRetention()
	}
	if config.transferring == nil {
		config.transferring = func() uint64 { return 0 }
	}
	if config.raising == nil {
		config.raising = newSharedLock()
	}
	i := &interceptor{
		transport:   inner,
		config:      config,
		votes:       newVotePolicy(),
		unreachable: newUnreachablePeers(),
		rpcs:        make(chan raft.RPC),
		beating:     newSharedLock(),
		stopped:     make(chan struct{}),
	}
	i.relaying.Go(i.relay)
	return i
}

// AppendEntries implements raft.Transport.
func (i *interceptor) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := i.append(id, target, args, resp)
	if err != nil && !isHeartbeat(args) {
		i.awaitReturn(id, args.Term)
	}
	return err
}

// append sends a request and waits for the answer. Every heartbeat goes through append:
// raft's, those of the read gate, and announcements.
func (i *interceptor) append(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	moment, sent := i.config.evidence.now(), time.Now()
	// Raft reuses one response for all heartbeats: an earlier answer must not count
	// for this request.
	*resp = raft.AppendEntriesResponse{}
	if err := i.transport.AppendEntries(id, target, args, resp); err != nil {
		return err
	}
	i.unreachable.answered(id)
	if resp.Success && resp.Term == args.Term {
		i.config.evidence.acknowledged(id, args.Term, moment, sent)
	}
	if !resp.Success {
		return nil
	}
	i.config.acknowledged(id, args)
	if !i.awaitStored(args, i.stopped) {
		return raft.ErrTransportShutdown
	}
	return nil
}

// isHeartbeat says whether a request is a heartbeat: it says nothing of the log.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
}

// awaitReturn waits until id, to which something could not be sent, answers again: see
// unreachablePeers.
func (i *interceptor) awaitReturn(id raft.ServerID, term uint64) {
	if i.config.replicatesTo != nil {
		i.unreachable.await(id, func() bool { return i.config.replicatesTo(id, term) }, i.stopped)
	}
}

// awaitStored waits until the entries of a request are on this instance's disk, too. It
// returns false if done is closed first, or if they never will be.
func (i *interceptor) awaitStored(request *raft.AppendEntriesRequest, done <-chan struct{}) bool {
	n := len(request.Entries)
	return n == 0 || i.config.log == nil || i.config.log.Await(request.Entries[n-1].Index, done)
}

// DecodePeer implements raft.Transport.
func (i *interceptor) DecodePeer(encoded []byte) raft.ServerAddress {
	_, address := splitDestination(i.transport.DecodePeer(encoded))
	return raft.ServerAddress(address)
}

// Consumer implements raft.Transport.
func (i *interceptor) Consumer() <-chan raft.RPC { return i.rpcs }

func (i *interceptor) relay() {
	incoming := i.transport.Consumer()
	for {
		select {
		case rpc := <-incoming:
			if err := malformed(rpc.Command); err != nil {
				i.skipping.Go(func() { refuse(rpc, err) })
				continue
			}
			i.noteLeader(rpc.Command)
			if err := i.votes.refuses(rpc.Command); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			if i.handled(&rpc) {
				continue
			}
			if wait := i.votes.delay(rpc.Command); wait > 0 {
				i.relaying.Go(func() { i.forwardAfter(wait, rpc) })
			} else {
				i.forward(rpc)
			}
		case <-i.stopped:
			return
		}
	}
}

// handled reduces rpc to what raft still has to do. It returns true if that is nothing:
// then rpc is answered here.
func (i *interceptor) handled(rpc *raft.RPC) bool {
	filter := i.config.filter
	if filter == nil {
		return false
	}
	switch request := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		filter.trim(request)
	case *raft.InstallSnapshotRequest:
		if filter.has(request) {
			skipped := *rpc
			i.skipping.Go(func() { filter.skip(skipped, request) })
			return true
		}
		rpc.Reader = &unlessCovered{Reader: rpc.Reader, covered: func() bool { return filter.hasByNow(request) }}
	}
	return false
}

// forward gives rpc to raft's main goroutine.
func (i *interceptor) forward(rpc raft.RPC) {
	asker := rpc.RespChan
	if vote, asks := rpc.Command.(*raft.RequestVoteRequest); asks && len(vote.ID) > 0 {
		// Raft stores the candidate that it voted for by its address. An address can change
		// hands: without the id, another candidate of the same term could have the vote, too.
		vote.Addr = []byte(destination(raft.ServerID(vote.ID), raft.ServerAddress(vote.Addr)))
	}
	switch rpc.Command.(type) {
	case *raft.RequestPreVoteRequest, *raft.RequestVoteRequest:
		if i.config.electorate != nil {
			i.config.electorate.enfranchise(rpc.Command)
		}
		rpc.RespChan = i.relayAnswer(rpc.Command, asker)
	case *raft.TimeoutNowRequest:
		rpc.RespChan = i.relayAnswer(rpc.Command, asker)
	}
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.TimeoutNowRequest:
		i.beating.Lock()
		defer i.beating.Unlock()
	}
	i.votes.deliver(rpc.Command, func() {
		select {
		case i.rpcs <- rpc:
		case <-i.stopped:
			asker <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
		}
	})
}

// relayAnswer returns a channel for raft's answer to command. The vote policy learns of
// the answer before asker does.
func (i *interceptor) relayAnswer(command any, asker chan<- raft.RPCResponse) chan<- raft.RPCResponse {
	answers := make(chan raft.RPCResponse, 1)
	i.relaying.Go(func() {
		if answer, came := i.awaitAnswer(command, answers); came {
			asker <- answer
		}
	})
	return answers
}

// awaitAnswer waits for raft's answer to command, and tells the vote policy of it. It
// returns false if the interceptor is closed first.
func (i *interceptor) awaitAnswer(command any, answers <-chan raft.RPCResponse) (answer raft.RPCResponse, came bool) {
	select {
	case answer = <-answers:
		i.votes.answered(command, answer.Response)
		return answer, true
	case <-i.stopped:
		return raft.RPCResponse{}, false
	}
}

// forwardAfter forwards rpc once raft may be asked for its vote. That takes longer than
// wait if a leader is heard from meanwhile.
func (i *interceptor) forwardAfter(wait time.Duration, rpc raft.RPC) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for wait > 0 {
		select {
		case <-timer.C:
			wait = i.votes.delay(rpc.Command)
			timer.Reset(wait)
		case <-i.stopped:
			wait = 0
		}
	}
	i.forward(rpc)
}

// stand has raft stand for election now, unless that is too early or too late, and waits
// for raft's answer itself: once Close waits for its goroutines, none may be started.
func (i *interceptor) stand() {
	answers := make(chan raft.RPCResponse, 1)
	if command := i.sendTimeoutNow(answers); command != nil {
		i.awaitAnswer(command, answers)
	}
}

// sendTimeoutNow tells raft to stand for election, if the vote policy allows it, and
// returns the command that raft was given; nil for none.
func (i *interceptor) sendTimeoutNow(answers chan<- raft.RPCResponse) (given any) {
	i.beating.Lock()
	defer i.beating.Unlock()
	i.votes.stand(func(command any) {
		select {
		case i.rpcs <- raft.RPC{Command: command, RespChan: answers}:
			given = command
		case <-i.stopped:
		}
	})
	return given
}

// RequestVote implements raft.Transport.
func (i *interceptor) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return i.transport.RequestVote(id, target, i.votes.outgoing(args), resp)
}

// TimeoutNow implements raft.Transport.
func (i *interceptor) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	own := *args
	own.ID = withTerm(own.ID, i.config.transferring())
	return i.transport.TimeoutNow(id, target, &own, resp)
}

// SetHeartbeatHandler implements raft.Transport. The handler runs beside raft's main
// goroutine. A heartbeat that changes raft's term or state, or may coincide with a vote
// (see votePolicy), goes through Consumer instead: raft 1.7.3 would handle it while the
// main goroutine is still storing a later term, and then go back to the earlier one; or
// go on for a moment as the leader of a term that is another leader's.
func (i *interceptor) SetHeartbeatHandler(handle func(raft.RPC)) {
	i.transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if !i.handleBeside(rpc, handle) {
			i.forward(rpc)
		}
	})
}

// handleBeside has raft handle a heartbeat beside its main goroutine. It returns false if
// the heartbeat has to go through the main goroutine.
func (i *interceptor) handleBeside(rpc raft.RPC, handle func(raft.RPC)) bool {
	i.beating.RLock()
	defer i.beating.RUnlock()
	voting := i.noteLeader(rpc.Command)
	i.config.raising.RLock()
	defer i.config.raising.RUnlock()
	request, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if ok && (voting || i.config.isSteady != nil && !i.config.isSteady(request.Term)) {
		return false
	}
	handle(rpc)
	return true
}

// noteLeader notes contact with the leader if command comes from it. It returns whether
// a vote may be in progress: see votePolicy.
func (i *interceptor) noteLeader(command any) (voting bool) {
	var term uint64
	switch request := command.(type) {
	case *raft.AppendEntriesRequest:
		term = request.Term
		if request.LeaderCommitIndex > 0 {
			i.firstCommit.CompareAndSwap(0, request.LeaderCommitIndex)
		}
	case *raft.InstallSnapshotRequest:
		term = request.Term
	default:
		return false
	}
	if term < i.config.term() {
		return false
	}
	now := time.Now()
	i.contact.Store(&now)
	return i.votes.noteLeader(now)
}

// Close implements raft.WithClose.
func (i *interceptor) Close() error {
	i.stopOnce.Do(func() { close(i.stopped) })
	i.relaying.Wait()
	err := i.transport.Close()
	i.skipping.Wait()
	return err
}
