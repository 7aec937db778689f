package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// witness is raft's transport, which it watches from both sides: what voters
// acknowledge becomes evidence, and how far the leader has committed is noted
// when a follower first hears it.
type witness struct {
	transport
	evidence *evidence
	owed     *owed
	log      *ahead // nil: what was sent is stored
	// taken is told what another instance has taken.
	taken func(raft.ServerID, *raft.AppendEntriesRequest)
	rpcs  chan raft.RPC
	// committed is the first commit index heard from a leader since the start;
	// 0 until then.
	committed atomic.Uint64
	// contact is when a leader was last heard from, and follows says in which
	// term this instance is: who speaks for an earlier one leads no more.
	contact atomic.Pointer[time.Time]
	follows func() uint64
	// steady says whether a heartbeat of a term leaves raft's own, and its state, as
	// they are; nil: each does.
	steady func(term uint64) bool
	// covered is what raft need not be given; nil: it is given everything.
	covered *covered
	ballot  *ballot
	// electorate is nil where it is for raft alone to say who is a voter.
	electorate *electorate
	absent     *absent
	// sends says whether there is still something to be sent to an instance in a term; nil:
	// what could not be sent is given up at once.
	sends func(id raft.ServerID, term uint64) bool
	// tells is called before another instance is told to take over, and gives the term in
	// which that is to leave this one.
	tells func() uint64

	// beating is held, shared, while raft handles a heartbeat beside its main goroutine, and
	// alone by who gives that a vote to decide on, or has it stand for election; raising alone
	// by the main goroutine while it goes on to a later term. A heartbeat that met one of
	// these would make a follower of raft, and have it go back to the term before.
	beating *sharedLock
	raising *sharedLock

	stopped  chan struct{}
	stopOnce sync.Once
	relaying sync.WaitGroup
	skipping sync.WaitGroup // for connections, which end with the transport
}

// transport is all that raft uses of a transport, and some of it only finds by
// type assertion.
type transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

func newWitness(inner transport, e *evidence, c *covered, voters *electorate, follows func() uint64) *witness {
	w := &witness{transport: inner, evidence: e, covered: c, electorate: voters, owed: newOwed(), absent: newAbsent(), follows: follows, rpcs: make(chan raft.RPC), ballot: newBallot(), beating: newSharedLock(), raising: newSharedLock(), stopped: make(chan struct{}),
		taken: func(raft.ServerID, *raft.AppendEntriesRequest) {}, tells: func() uint64 { return 0 }}
	w.relaying.Go(w.relay)
	return w
}

// AppendEntries implements raft.Transport.
func (w *witness) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := w.append(id, target, args, resp)
	if err != nil && !isHeartbeat(args) {
		w.awaitReturn(id, args.Term)
	}
	return err
}

// append sends a request and waits for the answer. All heartbeats are sent here, raft's and
// the read gate's, and announcements.
func (w *witness) append(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	moment, sent := w.evidence.now(), time.Now()
	// Raft uses one response for all heartbeats: what an earlier one said must
	// not count for this one.
	*resp = raft.AppendEntriesResponse{}
	if err := w.transport.AppendEntries(id, target, args, resp); err != nil {
		return err
	}
	w.absent.answered(id)
	if resp.Success && resp.Term == args.Term {
		w.evidence.acknowledged(id, args.Term, moment, sent)
	}
	if !resp.Success {
		return nil
	}
	w.taken(id, args)
	if !w.stored(args, w.stopped) {
		return raft.ErrTransportShutdown
	}
	return nil
}

// isHeartbeat says whether a request is nothing else.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
}

// awaitReturn waits for an instance to which something could not be sent.
func (w *witness) awaitReturn(id raft.ServerID, term uint64) {
	if w.sends != nil {
		w.absent.await(id, func() bool { return w.sends(id, term) }, w.stopped)
	}
}

// stored waits until the entries of a request are on this instance's disk, too; false:
// not before done is closed, or ever.
func (w *witness) stored(request *raft.AppendEntriesRequest, done <-chan struct{}) bool {
	n := len(request.Entries)
	return n == 0 || w.log == nil || w.log.await(request.Entries[n-1].Index, done)
}

// DecodePeer implements raft.Transport.
func (w *witness) DecodePeer(encoded []byte) raft.ServerAddress {
	_, address := splitDestination(w.transport.DecodePeer(encoded))
	return raft.ServerAddress(address)
}

// Consumer implements raft.Transport.
func (w *witness) Consumer() <-chan raft.RPC { return w.rpcs }

func (w *witness) relay() {
	incoming := w.transport.Consumer()
	for {
		select {
		case rpc := <-incoming:
			if err := malformed(rpc.Command); err != nil {
				w.skipping.Go(func() { refuse(rpc, err) })
				continue
			}
			w.hear(rpc.Command)
			if err := w.ballot.refuses(rpc.Command); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			if w.settled(&rpc) {
				continue
			}
			if wait := w.ballot.delay(rpc.Command); wait > 0 {
				w.relaying.Go(func() { w.forwardAfter(wait, rpc) })
			} else {
				w.forward(rpc)
			}
		case <-w.stopped:
			return
		}
	}
}

// settled leaves to raft what it has to do; false: that is something.
func (w *witness) settled(rpc *raft.RPC) bool {
	if w.covered == nil {
		return false
	}
	switch request := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		w.covered.trim(request)
	case *raft.InstallSnapshotRequest:
		if w.covered.has(request) {
			skipped := *rpc
			w.skipping.Go(func() { w.covered.skip(skipped, request) })
			return true
		}
		rpc.Reader = &needed{Reader: rpc.Reader, unless: func() bool { return w.covered.hasByNow(request) }}
	}
	return false
}

// forward gives rpc to raft's main goroutine.
func (w *witness) forward(rpc raft.RPC) {
	asker := rpc.RespChan
	if vote, asks := rpc.Command.(*raft.RequestVoteRequest); asks && len(vote.ID) > 0 {
		// A vote is kept by the address in it, and an address can change hands: another
		// candidate of the same term would have it as well.
		vote.Addr = []byte(destination(raft.ServerID(vote.ID), raft.ServerAddress(vote.Addr)))
	}
	switch rpc.Command.(type) {
	case *raft.RequestPreVoteRequest, *raft.RequestVoteRequest:
		if w.electorate != nil {
			w.electorate.enfranchise(rpc.Command)
		}
		rpc.RespChan = w.overhear(rpc.Command, asker)
	case *raft.TimeoutNowRequest:
		rpc.RespChan = w.overhear(rpc.Command, asker)
	}
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.TimeoutNowRequest:
		w.beating.Lock()
		defer w.beating.Unlock()
	}
	w.ballot.put(rpc.Command, func() {
		select {
		case w.rpcs <- rpc:
		case <-w.stopped:
			asker <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
		}
	})
}

// overhear has the ballot know how command is answered, and then whoever asked.
func (w *witness) overhear(command any, asker chan<- raft.RPCResponse) chan<- raft.RPCResponse {
	overheard := make(chan raft.RPCResponse, 1)
	w.relaying.Go(func() {
		if answer, came := w.await(command, overheard); came {
			asker <- answer
		}
	})
	return overheard
}

// await has the ballot know how command is answered; false: it is not any more.
func (w *witness) await(command any, overheard <-chan raft.RPCResponse) (answer raft.RPCResponse, came bool) {
	select {
	case answer = <-overheard:
		w.ballot.answered(command, answer.Response)
		return answer, true
	case <-w.stopped:
		return raft.RPCResponse{}, false
	}
}

// forwardAfter waits until raft may be asked, which takes longer when a leader is heard meanwhile.
func (w *witness) forwardAfter(wait time.Duration, rpc raft.RPC) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for wait > 0 {
		select {
		case <-timer.C:
			wait = w.ballot.delay(rpc.Command)
			timer.Reset(wait)
		case <-w.stopped:
			wait = 0
		}
	}
	w.forward(rpc)
}

// stand has raft stand for election now, unless that is too early, or too late, and waits
// for its answer itself: who is here when Close begins must have nothing more to wait for begin.
func (w *witness) stand() {
	answer := make(chan raft.RPCResponse, 1)
	if command := w.giveWord(answer); command != nil {
		w.await(command, answer)
	}
}

// giveWord tells raft to stand for election; nil: it was given none.
func (w *witness) giveWord(answer chan<- raft.RPCResponse) (given any) {
	w.beating.Lock()
	defer w.beating.Unlock()
	w.ballot.stand(func(command any) {
		select {
		case w.rpcs <- raft.RPC{Command: command, RespChan: answer}:
			given = command
		case <-w.stopped:
		}
	})
	return given
}

// RequestVote implements raft.Transport.
func (w *witness) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return w.transport.RequestVote(id, target, w.ballot.request(args), resp)
}

// TimeoutNow implements raft.Transport.
func (w *witness) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	own := *args
	own.ID = withTerm(own.ID, w.tells())
	return w.transport.TimeoutNow(id, target, &own, resp)
}

// SetHeartbeatHandler implements raft.Transport: heartbeats do not come through
// Consumer, unless they change raft's term or state, or may meet a vote there (see
// ballot). Raft 1.7.3 would do so beside its
// main goroutine, which may have gone on to a later term when this one is on the disk,
// and goes back to it then; or goes on for a moment as the leader that it was, of a
// term that is another one's.
func (w *witness) SetHeartbeatHandler(handle func(raft.RPC)) {
	w.transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if !w.beside(rpc, handle) {
			w.forward(rpc)
		}
	})
}

// beside has raft handle a heartbeat beside its main goroutine; false: that is for that one.
func (w *witness) beside(rpc raft.RPC, handle func(raft.RPC)) bool {
	w.beating.RLock()
	defer w.beating.RUnlock()
	voting := w.hear(rpc.Command)
	w.raising.RLock()
	defer w.raising.RUnlock()
	request, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if ok && (voting || w.steady != nil && !w.steady(request.Term)) {
		return false
	}
	handle(rpc)
	return true
}

// hear says whether a vote may be under way: see ballot.
func (w *witness) hear(command any) (voting bool) {
	var term uint64
	switch request := command.(type) {
	case *raft.AppendEntriesRequest:
		term = request.Term
		if request.LeaderCommitIndex > 0 {
			w.committed.CompareAndSwap(0, request.LeaderCommitIndex)
		}
	case *raft.InstallSnapshotRequest:
		term = request.Term
	default:
		return false
	}
	if term < w.follows() {
		return false
	}
	now := time.Now()
	w.contact.Store(&now)
	return w.ballot.hear(now)
}

// Close implements raft.WithClose.
func (w *witness) Close() error {
	w.stopOnce.Do(func() { close(w.stopped) })
	w.relaying.Wait()
	err := w.transport.Close()
	w.skipping.Wait()
	return err
}
