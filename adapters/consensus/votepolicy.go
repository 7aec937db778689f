package consensus

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// votePolicy decides when this instance is free to vote, and when it may stand for
// election before raft's own timer fires.
//
// Raft 1.7.3 gives no vote while it has a leader. It drops its leader only when a timer
// fires, which runs for one to two heartbeat timeouts, and runs again if it fired too
// early: the slower of two followers decides how long nobody leads. After a restart, on
// the other hand, raft has forgotten which leader it heard from. The policy corrects
// both:
//
//   - An instance that has heard from no leader for a heartbeat timeout is free.
//   - An instance that knows that its leader's process is gone is free after half of that.
//   - An instance that has just started is asked for its vote only after half of that.
//
// An instance does not vote within half a heartbeat timeout after it heard from a leader,
// or started, unless that leader itself transfers its leadership: Node.SureLeader relies
// on this. All the rest only saves time; whether a vote is given is raft's decision.
//
// Before start everything is left to raft. Safe for concurrent use.
type votePolicy struct {
	// locked holds a token while the fields below are in use. The lock is held, too, while
	// raft is being given a vote to decide on: a leader that is heard from meanwhile
	// waits, and then finds a later term.
	locked    chan struct{}
	heartbeat time.Duration // the heartbeat timeout; 0 before start
	// follows says whether raft follows a leader, and where that leader is.
	follows func() (leader raft.ServerAddress, follows bool)
	term    func() uint64 // raft's
	refusal func() error  // why this instance could not be elected; nil if it could

	heard time.Time // when a leader was last heard from, or when this instance started
	gone  bool      // the process of that leader is gone
	// yields: this instance has promised to vote for another candidate instead of that
	// leader, or stands for election itself.
	yields bool

	voting int // RequestVotes and TimeoutNows that raft was given and has not answered

	// transferTerm is the term for which the leader last told this instance to stand for
	// election: the one after that leader's own. It is zero if this instance decided by
	// itself to stand, or was told to by an instance that no longer led.
	transferTerm atomic.Uint64
}

func newVotePolicy() *votePolicy { return &votePolicy{locked: make(chan struct{}, 1)} }

func (v *votePolicy) lock() (unlock func()) {
	v.locked <- struct{}{}
	return func() { <-v.locked }
}

// minSilence is how long this instance does not vote after it heard from a leader. The
// caller holds the lock.
func (v *votePolicy) minSilence() time.Duration { return v.heartbeat / 2 }

// start is called once, before raft starts.
func (v *votePolicy) start(heartbeat time.Duration, term func() uint64, follows func() (raft.ServerAddress, bool), refusal func() error) {
	defer v.lock()()
	v.heartbeat, v.term, v.follows, v.refusal, v.heard = heartbeat, term, follows, refusal, time.Now()
}

// refuses returns why raft is not given command, if that is a TimeoutNow and this
// instance could not be elected: nobody would lead meanwhile. Otherwise it returns nil.
func (v *votePolicy) refuses(command any) error {
	if _, told := command.(*raft.TimeoutNowRequest); !told {
		return nil
	}
	defer v.lock()()
	if v.refusal == nil {
		return nil
	}
	return v.refusal()
}

// noteLeader notes that a leader was heard from. It returns whether raft may be about to
// vote: then raft must handle the leader's message and the vote one after the other.
func (v *votePolicy) noteLeader(now time.Time) (voting bool) {
	defer v.lock()()
	silence := now.Sub(v.heard)
	if now.After(v.heard) { // of two concurrent calls, the later time may come first
		v.heard = now
	}
	v.gone, v.yields = false, false
	if v.heartbeat == 0 {
		return false
	}
	_, follows := v.follows()
	return v.voting > 0 || silence >= v.minSilence() && !follows
}

// noteLeaderGone notes that the leader's process was found gone by a search that began at
// since. It returns false if the leader was heard from after that.
func (v *votePolicy) noteLeaderGone(since time.Time) bool {
	defer v.lock()()
	v.gone = v.heard.Before(since)
	return v.gone
}

// mayStand says whether, since noteLeaderGone, no leader was heard from and no other
// instance is about to become one.
func (v *votePolicy) mayStand() bool {
	defer v.lock()()
	return v.gone && !v.yields
}

// answered is called with raft's answer to a command that deliver or stand gave it.
func (v *votePolicy) answered(command, answer any) {
	defer v.lock()()
	if _, asked := command.(*raft.RequestPreVoteRequest); !asked {
		v.voting--
	} else if would, ok := answer.(*raft.RequestPreVoteResponse); ok && would.Granted {
		v.yields = true
	}
}

// delay returns how long command must be kept from raft, because it asks for a vote.
func (v *votePolicy) delay(command any) time.Duration {
	vote, asks := command.(*raft.RequestVoteRequest)
	if _, asksBefore := command.(*raft.RequestPreVoteRequest); !asksBefore && (!asks || vote.LeadershipTransfer) {
		return 0
	}
	defer v.lock()()
	if v.heartbeat == 0 {
		return 0
	}
	if _, follows := v.follows(); follows {
		return 0 // raft refuses, unless deliver finds this instance free
	}
	return v.minSilence() - time.Since(v.heard)
}

// isFree says whether this instance may vote although raft still has a leader. The caller
// holds the lock.
func (v *votePolicy) isFree() bool {
	silence := time.Since(v.heard)
	return v.heartbeat > 0 && (silence >= v.heartbeat || v.gone && silence >= v.minSilence())
}

// staleLeader returns the leader that raft still has although this instance is free. The
// caller holds the lock.
func (v *votePolicy) staleLeader() (leader raft.ServerAddress, stale bool) {
	if !v.isFree() {
		return "", false
	}
	return v.follows()
}

// deliver calls send, which gives command to raft. If command asks for a vote and this
// instance is free, deliver first changes it so that raft does not refuse only because
// it still has a leader.
func (v *votePolicy) deliver(command any, send func()) {
	switch request := command.(type) {
	case *raft.RequestPreVoteRequest:
		// A pre-vote promises nothing: a leader that is heard from meanwhile need not wait.
		v.ignoreStaleLeader(request)
	case *raft.RequestVoteRequest:
		defer v.lock()()
		if _, stale := v.staleLeader(); stale {
			request.LeadershipTransfer = true // then raft does not check its leader
			v.yields = true
		}
		v.voting++
	case *raft.TimeoutNowRequest:
		defer v.lock()()
		v.transferTerm.Store(v.termAfter(request.RPCHeader))
		v.voting++
	}
	send()
}

func (v *votePolicy) ignoreStaleLeader(request *raft.RequestPreVoteRequest) {
	defer v.lock()()
	if leader, stale := v.staleLeader(); stale {
		request.Addr = []byte(leader) // raft refuses only if its leader has another address
	}
}

// termAfter returns the term after the one in which the sender of a TimeoutNow leads this
// instance; zero if that sender does not. The caller holds the lock.
func (v *votePolicy) termAfter(sender raft.RPCHeader) uint64 {
	if v.heartbeat == 0 {
		return 0
	}
	term := v.term() // before the leader: raft has none while it goes on to another term
	if leader, follows := v.follows(); !follows || string(leader) != string(sender.Addr) {
		return 0
	}
	if of, known := termOf(sender.ID); known && of != term {
		return 0
	}
	return term + 1
}

// withTerm appends to a leader's id, which contains no @, the term in which that leader
// sends a TimeoutNow. Raft 1.7.3 sends no term with it: a late one could be taken for one
// of a later term in which the same leader sent none and relies on leading.
func withTerm(id []byte, term uint64) []byte {
	return fmt.Appendf(bytes.Clone(id), "@%d", term)
}

// termOf returns the term that withTerm appended; false if there is none, because the
// sender's build is older than withTerm.
func termOf(id []byte) (term uint64, known bool) {
	_, text, known := bytes.Cut(id, []byte("@"))
	term, err := strconv.ParseUint(string(text), 10, 64)
	return term, known && err == nil
}

// stand calls send, which gives raft a TimeoutNow, if this instance should stand for
// election now.
func (v *votePolicy) stand(send func(command any)) {
	defer v.lock()()
	if _, stale := v.staleLeader(); !stale || !v.gone || v.yields {
		return
	}
	v.yields = true // it does not stand twice
	v.voting++
	v.transferTerm.Store(0)
	send(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}})
}

// outgoing returns the request for a vote that is sent in place of args. Raft marks it as
// a leadership transfer, to which voters agree at once, whenever it was told to stand. The
// mark stays only if the current leader told it so, not if this instance did itself or the
// leader's message came after the end of its term: then voters decide by what they have heard.
func (v *votePolicy) outgoing(args *raft.RequestVoteRequest) *raft.RequestVoteRequest {
	if !args.LeadershipTransfer || args.Term == v.transferTerm.Load() {
		return args
	}
	own := *args
	own.LeadershipTransfer = false
	return &own
}
