package consensus

import (
	"errors"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// When a leader's process ends, the kernel closes its connections at once, and
// refuses new ones. A follower to which that happens need not wait as long as for a
// leader that is silent: see ballot for how long it does. That hint may be wrong, and
// costs an election then, at most: no vote of an instance that hears from its leader
// is won by it.

const (
	// enough is how often the leader's address must refuse, or answer, in a row, with
	// a pause between: a process that ends may have closed a connection, and not
	// yet its port.
	enough      = 2
	lookupPause = 10 * time.Millisecond
	// candidacies is how often an instance asks whether it would be elected, with a
	// pause between: the others may not know yet that the leader is gone.
	candidacies    = 5
	candidacyPause = 10 * time.Millisecond
	// turns is how many of those who might stand have their turn within a heartbeat
	// timeout.
	turns = 6
)

// follows says whether raft follows a leader, and where that is. Raft 1.7.3 does so as a
// candidate, too, that was told to take over and hears a leader of its term: it has that
// one until it votes, or leads.
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
		case <-n.stream.ended:
			if n.isLeaderLost() {
				n.standEarly()
			}
		case <-n.running.Done():
			return
		}
		// Whoever makes connections and breaks them has the leader asked no more
		// often than this.
		if !n.sleep(n.timeouts.HeartbeatTimeout / 2) {
			return
		}
	}
}

// isLeaderLost looks whether there is nobody any more where the leader was.
func (n *Node) isLeaderLost() bool {
	began := time.Now()
	leader, id := n.raft.LeaderWithID()
	refused, answered := 0, 0
	for {
		if _, follows := n.follows(); !follows {
			return false
		}
		conn, err := n.stream.Dial(destination(id, leader), n.timeouts.HeartbeatTimeout/2)
		switch {
		case err == nil:
			conn.Close()
			refused, answered = 0, answered+1
		case errors.Is(err, syscall.ECONNREFUSED):
			refused++
		default:
			return false
		}
		if refused == enough {
			return n.interceptor.votes.noteLeaderGone(began)
		}
		if answered == enough {
			return false
		}
		if !n.sleep(lookupPause) {
			return false
		}
	}
}

// standEarly has this instance stand for election as soon as it may, if enough others
// would vote for it. They take turns in the order of their ids, so that no two
// stand at the same time.
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
	for range candidacies {
		if !n.interceptor.votes.mayStand() {
			return
		}
		if n.wouldBeElected(others, needed) {
			n.config.Logger.Info("the leader's process is gone: this instance stands for election", "leader", leader)
			n.interceptor.stand()
			return
		}
		if !n.sleep(candidacyPause) {
			return
		}
	}
}

var errOtherEnd = errors.New("the end of this instance's log is not of the log that it has a snapshot of: the next entry replaces it")

// unelectable is why this instance would not be elected; nil for no reason. Where it can't
// store its own vote it would wait for the disk, and answer nobody meanwhile. And what a
// snapshot left behind it in the log raft 1.7.3 takes for all that it has: see baseLog.
func (n *Node) unelectable() error {
	if err := n.disk.refusal(); err != nil {
		return err
	}
	running := n.started.Load()
	if running == nil {
		return nil
	}
	stats := running.Stats() // nothing else says what raft remembers
	number := func(name string) uint64 {
		value, _ := strconv.ParseUint(stats[name], 10, 64)
		return value
	}
	if number("last_log_index") >= number("last_snapshot_index") && number("last_log_term") < number("last_snapshot_term") {
		return errOtherEnd
	}
	return nil
}

func (n *Node) isVoter() bool {
	return slices.ContainsFunc(n.voters(), func(s raft.Server) bool { return s.ID == raft.ServerID(n.config.ID) })
}

func (n *Node) voters() []raft.Server {
	// Raft gives away its own slice.
	return slices.DeleteFunc(slices.Clone(n.raft.GetConfiguration().Configuration().Servers),
		func(s raft.Server) bool { return s.Suffrage != raft.Voter })
}

// wouldBeElected asks others whether they would vote for this instance: raft does not
// when it is told to stand for election.
func (n *Node) wouldBeElected(others []raft.ServerID, needed int) bool {
	request, err := n.candidacy()
	if err != nil {
		return false
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

func (n *Node) candidacy() (*raft.RequestPreVoteRequest, error) {
	index, term, known := n.lastEntry()
	if !known {
		return nil, errors.New("the end of the log can't be read")
	}
	return &raft.RequestPreVoteRequest{
		RPCHeader:    n.rpcHeader(),
		Term:         n.raft.CurrentTerm() + 1,
		LastLogIndex: index,
		LastLogTerm:  term,
	}, nil
}
