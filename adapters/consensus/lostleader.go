package consensus

import (
	"errors"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// When a leader's process ends, the kernel closes its connections at once, and refuses
// new ones. A follower that sees this need not wait as long as for a silent leader: see
// votePolicy for how long it does wait. The hint may be wrong; then it costs an election
// at most, because instances that hear from the leader do not vote.

const (
	// dialsNeeded is how many dials in a row must be refused, or succeed, to tell whether
	// the leader's process is gone, with dialPause between them: a process that is ending
	// may have closed a connection but not its port yet.
	dialsNeeded = 2
	dialPause   = 10 * time.Millisecond
	// preVotes is how many times an instance asks whether it would be elected, with
	// preVotePause between: the others may not know yet that the leader is gone.
	preVotes     = 5
	preVotePause = 10 * time.Millisecond
	// turns is how many instances have their turn to stand within a heartbeat timeout.
	turns = 6
)

// follows says whether raft has another leader, and returns its address. Raft 1.7.3 may have
// one even as a candidate: if it was told to take over and then hears a leader of its term,
// it has that leader until it votes or leads.
func (n *Node) follows() (leader raft.ServerAddress, follows bool) {
	running := n.started.Load()
	if running == nil {
		return "", false
	}
	leader, id := running.LeaderWithID()
	return leader, leader != "" && id != raft.ServerID(n.config.ID) && running.State() != raft.Shutdown
}

// watchLeader stands for election early when the leader's process is gone.
func (n *Node) watchLeader() {
	for {
		select {
		case <-n.stream.Ended():
			if n.isLeaderGone() {
				n.standEarly()
			}
		case <-n.running.Done():
			return
		}
		// This bounds how often the leader is dialled, even if somebody keeps making
		// connections and breaking them.
		if !n.sleep(n.timeouts.HeartbeatTimeout / 2) {
			return
		}
	}
}

// isLeaderGone dials the leader to find out whether its process is gone.
func (n *Node) isLeaderGone() bool {
	began := time.Now()
	leader, id := n.raft.LeaderWithID()
	refused, answered := 0, 0
	for {
		if _, follows := n.follows(); !follows {
			return false
		}
		conn, err := n.stream.Dial(string(id), string(leader), n.timeouts.HeartbeatTimeout/2)
		switch {
		case err == nil:
			conn.Close()
			refused, answered = 0, answered+1
		case errors.Is(err, syscall.ECONNREFUSED):
			refused++
		default:
			return false
		}
		if refused == dialsNeeded {
			return n.interceptor.votes.noteLeaderGone(began)
		}
		if answered == dialsNeeded {
			return false
		}
		if !n.sleep(dialPause) {
			return false
		}
	}
}

// standEarly has this instance stand for election as soon as it may, if enough others
// would vote for it. Instances take turns in the order of their ids, so that no two stand
// at the same time.
func (n *Node) standEarly() {
	_, leader := n.raft.LeaderWithID()
	others, needed := n.quorum()
	others = slices.DeleteFunc(others, func(id raft.ServerID) bool { return id == leader })
	if len(others) < needed || !n.isVoter() || !n.mayBeTrusted() {
		return
	}
	rank := 0
	for _, id := range others {
		if id < raft.ServerID(n.config.ID) {
			rank++
		}
	}
	if !n.sleep(n.timeouts.HeartbeatTimeout/2 + time.Duration(rank)*n.timeouts.HeartbeatTimeout/turns) {
		return
	}
	for range preVotes {
		if !n.interceptor.votes.mayStand() {
			return
		}
		if n.wouldBeElected(others, needed) {
			n.config.Logger.Info("the leader's process is gone: this instance stands for election", "leader", leader)
			n.interceptor.stand()
			return
		}
		if !n.sleep(preVotePause) {
			return
		}
	}
}

var errOtherEnd = errors.New("the end of this instance's log is not of the log that it has a snapshot of: the next entry replaces it")

// unelectable returns why this instance could not be elected; nil if it could. If its disk
// is in trouble, it would wait to store its own vote and answer nobody meanwhile. If the
// log ends with old entries that an installed snapshot has left there, raft 1.7.3 asks for
// votes with the last of these entries instead of the snapshot's: see baseLog.
func (n *Node) unelectable() error {
	if err := n.disk.Fault(); err != nil {
		return err
	}
	running := n.started.Load()
	if running == nil {
		return nil
	}
	stats := running.Stats() // the only way to learn what raft has in memory
	number := func(name string) uint64 {
		value, _ := strconv.ParseUint(stats[name], 10, 64)
		return value
	}
	if number("last_log_index") >= number("last_snapshot_index") && number("last_log_term") < number("last_snapshot_term") {
		return errOtherEnd
	}
	return nil
}

// isVoter says whether this instance is a voter.
func (n *Node) isVoter() bool {
	return slices.ContainsFunc(n.voters(), func(s raft.Server) bool { return s.ID == raft.ServerID(n.config.ID) })
}

// voters returns the voters in raft's latest membership.
func (n *Node) voters() []raft.Server {
	// Clone, because raft returns its own slice.
	return slices.DeleteFunc(slices.Clone(n.members()), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
}

// wouldBeElected holds a pre-vote among others: raft holds none when it is told to stand
// for election.
func (n *Node) wouldBeElected(others []raft.ServerID, needed int) bool {
	index, term, known := n.lastEntry()
	if !known {
		return false
	}
	request := &raft.RequestPreVoteRequest{
		RPCHeader:    n.rpcHeader(),
		Term:         n.raft.CurrentTerm() + 1,
		LastLogIndex: index,
		LastLogTerm:  term,
	}
	votes := make(chan bool, len(others))
	asked := 0
	for _, voter := range n.voters() {
		if !slices.Contains(others, voter.ID) {
			continue
		}
		asked++
		n.watching.Go(func() {
			var answer raft.RequestPreVoteResponse
			err := n.interceptor.RequestPreVote(voter.ID, voter.Address, request, &answer)
			votes <- err == nil && answer.Granted
		})
	}
	tooLate := time.After(n.timeouts.HeartbeatTimeout / 2)
	for range asked {
		select {
		case granted := <-votes:
			if granted {
				needed--
			}
		case <-tooLate:
			return false
		}
		if needed <= 0 {
			return true
		}
	}
	return false
}
