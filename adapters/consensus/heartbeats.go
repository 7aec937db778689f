package consensus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// heartbeatPause is how long an instance that could not be reached gets only raft's
	// own heartbeats.
	heartbeatPause = 20 * time.Millisecond
	// heartbeatLinger is how long a sender's goroutine waits for the next request before it
	// ends. A new goroutine would first have to grow its stack.
	heartbeatLinger = time.Second
)

// heartbeats sends heartbeats beside raft's own, for the read gate or for announcements. Each
// instance has a goroutine that sends one at a time, and ends when it is idle: an
// instance that does not answer costs one goroutine, and delays no other. Safe for
// concurrent use.
type heartbeats struct {
	running context.Context       // nothing is sent after it has ended
	send    func(heartbeat) error // returns within the timeout of an RPC

	mu      sync.Mutex
	senders map[raft.ServerID]chan heartbeat // each holds the next one to send
	sending sync.WaitGroup
}

type heartbeat struct {
	to        raft.ServerID
	term      uint64
	committed place // announced as committed; zero for a plain heartbeat
}

func newHeartbeats(running context.Context, send func(heartbeat) error) *heartbeats {
	return &heartbeats{running: running, send: send, senders: map[raft.ServerID]chan heartbeat{}}
}

// ask has a heartbeat sent after the call: one that is on its way does not count. It does
// not block.
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
	case <-next: // asked replaces it
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

// leave removes an idle sender. It returns false if there is a heartbeat to send.
func (h *heartbeats) leave(to raft.ServerID, next chan heartbeat) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(next) > 0 {
		return false
	}
	delete(h.senders, to)
	return true
}

// beat sends a heartbeat like raft's own, which followers answer beside their main
// goroutine.
func (n *Node) beat(h heartbeat) error { return n.sendEmpty(h, &raft.AppendEntriesRequest{}) }

// sendEmpty sends an AppendEntries without entries in the term of h. Time may have passed
// since h was asked for: as raft does, sendEmpty sends nothing once this instance no
// longer leads that term or the receiver was removed, and uses the receiver's current
// address.
func (n *Node) sendEmpty(h heartbeat, message *raft.AppendEntriesRequest) error {
	term, leads := n.leads()
	servers := n.members()
	to := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == h.to })
	if !leads || term != h.term || to < 0 {
		return nil
	}
	message.RPCHeader, message.Term = n.rpcHeader(), h.term
	var answer raft.AppendEntriesResponse
	err := n.interceptor.append(h.to, servers[to].Address, message, &answer)
	if err == nil && answer.Term > h.term {
		// Raft 1.7.3 steps down at a later term in the answer to a heartbeat only during a
		// VerifyLeader. A voter whose disk hangs answers nothing but heartbeats: without
		// this call the leader would not step down.
		n.raft.VerifyLeader()
	}
	return err
}

// rpcHeader returns the header that raft puts in each request.
func (n *Node) rpcHeader() raft.RPCHeader {
	self := raft.ServerID(n.config.ID)
	return raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax,
		ID:              []byte(self),
		Addr:            n.interceptor.EncodePeer(self, n.interceptor.LocalAddr()),
	}
}
