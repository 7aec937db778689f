package consensus

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// reconcileInterval is how often the shared state is compared with raft's. Raft's own
// notifications come sooner, but raft drops those that find no room in the channel.
const reconcileInterval = 50 * time.Millisecond

// openingPause is the time between two attempts to open a term.
const openingPause = 10 * time.Millisecond

// stuckAfter returns a time that is longer than a leadership transfer takes: one RPC, a
// dial before it, and two election timeouts. One that takes longer never ends.
func (n *Node) stuckAfter() time.Duration {
	return cmp.Or(n.hooks.stuckAfter, 3*rpcTimeout+2*n.config.Timing.ElectionTimeout)
}

// watchLeadership keeps the shared state up to date with raft's, and opens the terms that
// this instance leads.
func (n *Node) watchLeadership() {
	hints := make(chan raft.Observation, 16)
	observer := raft.NewObserver(hints, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	ticker := time.NewTicker(reconcileInterval)
	defer ticker.Stop()
	var opened uint64
	for {
		select {
		case <-n.leadership: // raft blocks until this is received
		case <-hints:
		case <-ticker.C:
		case <-n.running.Done():
			return
		}
		if latest := n.refreshState(); latest.leads && latest.Term != opened {
			opened = latest.Term
			n.watching.Go(func() { n.open(latest.Term) })
		}
	}
}

// refreshState updates the shared state with what raft says, if anything has changed, and
// returns it. Calls are serialized: otherwise one could overwrite what another one, which
// read raft's state later, has stored.
func (n *Node) refreshState() *localState {
	n.refreshing.Lock()
	defer n.refreshing.Unlock()
	term, leads := n.leads()
	address, id := n.raft.LeaderWithID()
	roster := n.roster()
	goal := n.interceptor.firstCommit.Load()
	n.learnClusterID()

	latest := n.state.read()
	changed := !roster.Equal(latest.Roster)
	next := *latest
	next.Term, next.leads = term, leads
	if leads && (!latest.leads || latest.Term != term) {
		next.elected = time.Now()
	}
	if latest.leads && (!leads || latest.Term != term) {
		// Until it hears from its successor, its last contact is the one it had as leader.
		next.led = n.leaderContact(latest)
	}
	contact := n.leaderContact(&next)
	inTouch := !contact.IsZero() && time.Since(contact) <= n.config.Timing.ElectionTimeout
	if !changed && latest.Term == term && latest.leads == leads && latest.goal == goal && latest.InTouch == inTouch &&
		latest.LeaderID == string(id) && latest.LeaderRaftAddress == string(address) {
		return latest
	}
	n.state.update(func(s *localState) {
		s.Term, s.leads, s.goal, s.InTouch = term, leads, goal, inTouch
		s.elected, s.led = next.elected, next.led
		s.LeaderID, s.LeaderRaftAddress = string(id), string(address)
		if changed {
			s.Roster = roster
			_, s.Member = roster.Find(n.config.ID)
		}
	})
	if changed {
		n.membershipChanged()
	}
	return n.state.read()
}

// leads returns raft's term and whether this instance leads in it. Before raft has started
// it returns 0 and false.
func (n *Node) leads() (uint64, bool) {
	running := n.started.Load()
	if running == nil {
		return 0, false
	}
	for {
		term := running.CurrentTerm()
		leads := running.State() == raft.Leader
		// Raft changes term and state one after the other.
		if running.CurrentTerm() == term {
			return term, leads
		}
	}
}

func (n *Node) roster() domain.Roster {
	return rosterOf(n.raft.GetConfiguration().Configuration())
}

// open writes the opening entry of a term, which must be applied before this
// instance serves in it.
func (n *Node) open(term uint64) {
	id := n.state.read().ClusterID
	if id == "" {
		id = rand.Text()
	}
	entry := codec.EncodeEntry(codec.Opening{ClusterID: id})
	began, warned := time.Now(), false
	for {
		if now, leads := n.leads(); !leads || now != term {
			return
		}
		_, err := n.apply(n.running, entry)
		switch {
		case err == nil, errors.Is(err, ports.ErrClosed), n.running.Err() != nil:
			return
		case errors.Is(err, raft.ErrLeadershipTransferInProgress) && time.Since(began) > n.stuckAfter():
			// Raft can miss the end of a transfer when leadership ends first
			// (hashicorp/raft issue 696). It then refuses every write of this
			// term and all later ones until the process is restarted.
			n.fail(fmt.Errorf("this instance leads term %d, and raft does not let it write: %w", term, err))
			return
		}
		if !warned {
			warned = true
			n.config.Logger.Warn("could not open the term yet", "term", term, "error", err)
		}
		if !n.sleep(openingPause) {
			return
		}
	}
}

// servingTerm implements leadership.
func (n *Node) servingTerm() (uint64, bool) {
	term, leads := n.leads()
	latest := n.state.read()
	return term, leads && latest.openTerm == term && latest.DiskTrouble == "" && !latest.Closed
}

// commitIndex implements leadership.
func (n *Node) commitIndex() uint64 { return n.raft.CommitIndex() }

// lastIndex implements announcer.
func (n *Node) lastIndex() uint64 { return n.raft.LastIndex() }

// quorum implements leadership.
func (n *Node) quorum() (others []raft.ServerID, needed int) {
	voters := 0
	self := 0
	for _, server := range n.members() {
		switch {
		case server.Suffrage != raft.Voter:
			continue
		case server.ID == raft.ServerID(n.config.ID):
			self = 1
		default:
			others = append(others, server.ID)
		}
		voters++
	}
	return others, voters/2 + 1 - self
}

// sendHeartbeats implements leadership.
func (n *Node) sendHeartbeats(others []raft.ServerID, term uint64) {
	for _, voter := range others {
		n.heartbeats.ask(heartbeat{to: voter, term: term})
	}
}

// watch implements leadership.
func (n *Node) watch() <-chan struct{} { return n.state.read().later }
