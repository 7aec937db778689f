package consensus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// heartbeatPause is how long a voter that could not be reached is left to raft's
	// own heartbeats.
	heartbeatPause = 20 * time.Millisecond
	// heartbeatLinger is how long a goroutine that has sent one waits for the next. A
	// new one would first have to make its stack as large as sending needs it.
	heartbeatLinger = time.Second
)

// heartbeats sends what raft's own do not, for the read gate or for announcements: to each
// instance one at a time, by a goroutine that ends when it is asked for no more. So one that
// does not answer costs one goroutine, and delays nobody. Safe for concurrent use.
type heartbeats struct {
	running context.Context       // none is sent after its end
	send    func(heartbeat) error // returns within the time of an RPC

	mu      sync.Mutex
	senders map[raft.ServerID]chan heartbeat // with room for the next one
	sending sync.WaitGroup
}

type heartbeat struct {
	to        raft.ServerID
	term      uint64
	committed place // which is announced; zero: it says nothing of the log
}

func newHeartbeats(running context.Context, send func(heartbeat) error) *heartbeats {
	return &heartbeats{running: running, send: send, senders: map[raft.ServerID]chan heartbeat{}}
}

// ask has one sent after the call: one that is on its way was sent before. It waits
// for nothing.
func (h *heartbeats) ask(asked heartbeat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running.Err() != nil {
		return
	}
	next, exists := h.senders[asked.to]
	if !exists {
		next = make(chan heartbeat, 1)
		h.senders[asked.to] = next
		h.sending.Go(func() { h.run(asked.to, next) })
	}
	select {
	case <-next: // this one does for both
	default:
	}
	next <- asked
}

func (h *heartbeats) run(to raft.ServerID, next chan heartbeat) {
	idle := time.NewTimer(heartbeatLinger)
	defer idle.Stop()
	for {
		select {
		case asked := <-next:
			if err := h.send(asked); err != nil {
				// A voter that refuses connections must not cost one per read.
				sleep(h.running, heartbeatPause)
			}
			idle.Reset(heartbeatLinger)
		case <-idle.C:
			if h.leave(to, next) {
				return
			}
		case <-h.running.Done():
			return
		}
	}
}

// leave is refused while there is one to send.
func (h *heartbeats) leave(to raft.ServerID, next chan heartbeat) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(next) > 0 {
		return false
	}
	delete(h.senders, to)
	return true
}

// beat sends a heartbeat like raft's own, to which followers answer beside their main
// goroutine.
func (n *Node) beat(h heartbeat) error { return n.say(h, &raft.AppendEntriesRequest{}) }

// say sends a message without entries, in the term that it was meant for. It may have
// waited: raft sends none any more when it leads no more, or to whom it has removed, and
// looks for others where they are now.
func (n *Node) say(h heartbeat, message *raft.AppendEntriesRequest) error {
	term, leads := n.leads()
	servers := n.raft.GetConfiguration().Configuration().Servers
	to := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == h.to })
	if !leads || term != h.term || to < 0 {
		return nil
	}
	message.RPCHeader, message.Term = n.rpcHeader(), h.term
	var answer raft.AppendEntriesResponse
	err := n.witness.append(h.to, servers[to].Address, message, &answer)
	if err == nil && answer.Term > h.term {
		// Raft 1.7.3 heeds this answer to a heartbeat only while it is asked whether it
		// leads. A voter whose disk hangs gives no other, and it would lead on.
		n.raft.VerifyLeader()
	}
	return err
}

// rpcHeader is what raft puts before all that it sends.
func (n *Node) rpcHeader() raft.RPCHeader {
	self := raft.ServerID(n.config.ID)
	return raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax,
		ID:              []byte(self),
		Addr:            n.witness.EncodePeer(self, n.witness.LocalAddr()),
	}
}
