package consensus

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// ballot decides when this instance is free to vote, and to stand for election
// before its time.
//
// Raft 1.7.3 gives no vote while it has a leader, and it has one until a timer ends
// that runs for once to twice a heartbeat timeout, and again where that was too
// early: the later one of two followers decides how long nobody leads. And when it
// starts it has forgotten whom it heard. So it is told:
//
//   - who has heard from no leader for a heartbeat timeout is free;
//   - so is who knows that its leader's process is gone, after half of that;
//   - who has just started is asked no earlier than after half of it.
//
// Nobody votes within half a heartbeat timeout after it heard from a leader, or
// started, unless that leader itself has somebody take over: Node.SureLeader relies
// on it. All else is about time; raft alone decides what a vote may do.
//
// Before begin it leaves everything to raft. Safe for concurrent use.
type ballot struct {
	// locked holds a token while somebody looks at what follows; also while raft is
	// given a vote to decide on: a leader that is heard meanwhile waits, and finds
	// a later term.
	locked    chan struct{}
	heartbeat time.Duration // how long a follower waits for its leader
	// follows says whether raft follows somebody, and whom.
	follows func() (leader raft.ServerAddress, follows bool)
	term    func() uint64 // raft's
	refusal func() error  // why this instance would not be elected; nil for no reason

	heard time.Time // from a leader, or when this instance started
	gone  bool      // nobody is where that leader was
	// yields: this instance has said that it would vote for another one instead of
	// that leader.
	yields bool

	voting int // how often raft was asked for its vote, or told to stand, and has not answered

	// told is the term for which its leader told this instance to stand for election, the
	// last time that it was told: the next one of that leader's. Zero: it was told by
	// itself, or by one who no longer led.
	told atomic.Uint64
}

func newBallot() *ballot { return &ballot{locked: make(chan struct{}, 1)} }

func (b *ballot) lock() (unlock func()) {
	b.locked <- struct{}{}
	return func() { <-b.locked }
}

// patience is how long nobody votes after it heard from a leader. It needs the lock.
func (b *ballot) patience() time.Duration { return b.heartbeat / 2 }

// begin is called before raft starts.
func (b *ballot) begin(heartbeat time.Duration, term func() uint64, follows func() (raft.ServerAddress, bool), refusal func() error) {
	defer b.lock()()
	b.heartbeat, b.term, b.follows, b.refusal, b.heard = heartbeat, term, follows, refusal, time.Now()
}

// refuses is why raft is not told to stand for election, though a leader says so; nil for
// no reason. Nobody would lead meanwhile.
func (b *ballot) refuses(command any) error {
	if _, told := command.(*raft.TimeoutNowRequest); !told {
		return nil
	}
	defer b.lock()()
	if b.refusal == nil {
		return nil
	}
	return b.refusal()
}

// hear notes that a leader was heard from, and says whether raft may be about to vote:
// then it must decide on both one after the other.
func (b *ballot) hear(now time.Time) (voting bool) {
	defer b.lock()()
	silence := now.Sub(b.heard)
	if now.After(b.heard) { // of two at the same time, the later one may come first
		b.heard = now
	}
	b.gone, b.yields = false, false
	if b.heartbeat == 0 {
		return false
	}
	_, follows := b.follows()
	return b.voting > 0 || silence >= b.patience() && !follows
}

// lose notes that nobody is where the leader was, unless it was heard from since.
func (b *ballot) lose(since time.Time) bool {
	defer b.lock()()
	b.gone = b.heard.Before(since)
	return b.gone
}

// mayStand says whether, since lose, neither a leader was heard from nor somebody else
// is about to become one.
func (b *ballot) mayStand() bool {
	defer b.lock()()
	return b.gone && !b.yields
}

// answered is told what raft answers to what put, or stand, has passed.
func (b *ballot) answered(command, answer any) {
	defer b.lock()()
	if _, asked := command.(*raft.RequestPreVoteRequest); !asked {
		b.voting--
	} else if would, ok := answer.(*raft.RequestPreVoteResponse); ok && would.Granted {
		b.yields = true
	}
}

// delay is how long raft must not be asked for its vote.
func (b *ballot) delay(command any) time.Duration {
	vote, asks := command.(*raft.RequestVoteRequest)
	if _, asksBefore := command.(*raft.RequestPreVoteRequest); !asksBefore && (!asks || vote.LeadershipTransfer) {
		return 0
	}
	defer b.lock()()
	if b.heartbeat == 0 {
		return 0
	}
	if _, follows := b.follows(); follows {
		return 0 // raft refuses, or is free by what is said below
	}
	return b.patience() - time.Since(b.heard)
}

// free needs the lock.
func (b *ballot) free() bool {
	silence := time.Since(b.heard)
	return b.heartbeat > 0 && (silence >= b.heartbeat || b.gone && silence >= b.patience())
}

// put has pass give raft an RPC. Where that asks for a vote, and this instance is free,
// a leader that raft may still have is no reason to refuse.
func (b *ballot) put(command any, pass func()) {
	switch request := command.(type) {
	case *raft.RequestPreVoteRequest:
		// It promises nothing, so that a leader that is heard meanwhile need not wait.
		b.lookAway(request)
	case *raft.RequestVoteRequest:
		defer b.lock()()
		if _, passed := b.passed(); passed {
			request.LeadershipTransfer = true // raft does not ask for its leader then
			b.yields = true
		}
		b.voting++
	case *raft.TimeoutNowRequest:
		defer b.lock()()
		b.told.Store(b.next(request.RPCHeader))
		b.voting++
	}
	pass()
}

func (b *ballot) lookAway(request *raft.RequestPreVoteRequest) {
	defer b.lock()()
	if leader, passed := b.passed(); passed {
		request.Addr = []byte(leader) // raft asks whether it has another leader than this
	}
}

// next is the term after that in which the one who says word leads this instance; zero when
// that does not. It needs the lock.
func (b *ballot) next(word raft.RPCHeader) uint64 {
	if b.heartbeat == 0 {
		return 0
	}
	term := b.term() // before the leader: raft has none while it goes on to another term
	if leader, follows := b.follows(); !follows || string(leader) != string(word.Addr) {
		return 0
	}
	if of, known := termOf(word.ID); known && of != term {
		return 0
	}
	return term + 1
}

// withTerm adds to the id of a leader, which has no @ in it, the term in which it tells another
// instance to take over. Raft 1.7.3 sends no term with that: said late, it could be taken for
// the word of a later term, in which that leader told nobody, and is sure to lead.
func withTerm(id []byte, term uint64) []byte {
	return fmt.Appendf(bytes.Clone(id), "@%d", term)
}

// termOf gives the term that was added; false: a build from before withTerm says none.
func termOf(id []byte) (term uint64, known bool) {
	_, text, known := bytes.Cut(id, []byte("@"))
	term, err := strconv.ParseUint(string(text), 10, 64)
	return term, known && err == nil
}

// passed gives the leader that raft still has, though this instance is free. It
// needs the lock.
func (b *ballot) passed() (leader raft.ServerAddress, passed bool) {
	if !b.free() {
		return "", false
	}
	return b.follows()
}

// stand has pass tell raft to stand for election, if that is right now.
func (b *ballot) stand(pass func(command any)) {
	defer b.lock()()
	if _, passed := b.passed(); !passed || !b.gone || b.yields {
		return
	}
	b.yields = true // it does not stand twice
	b.voting++
	b.told.Store(0)
	pass(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}})
}

// request is what others are asked when raft asks for their votes. It takes their leader
// to be the one who told it to stand for election, so that they vote at once. When that was
// this instance itself, or a leader whose word came after the end of its term, they decide
// by what they have heard.
func (b *ballot) request(args *raft.RequestVoteRequest) *raft.RequestVoteRequest {
	if !args.LeadershipTransfer || args.Term == b.told.Load() {
		return args
	}
	own := *args
	own.LeadershipTransfer = false
	return &own
}
