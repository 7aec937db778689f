package consensus

import (
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/frames"
)

// peerFrames lets through what an instance sends: no longer write gets into the log than
// maxPending, and no more entries into a message than maxBatch.
var peerFrames = frames.Config{
	MaxField:        maxPending,
	MaxElements:     4 * maxBatch,
	ProtocolVersion: uint64(raft.ProtocolVersionMax),
	Timeout:         rpcTimeout,
}

// checkedStream is a raft.StreamLayer that checks what peers send, so that no message costs
// more memory than its sender has sent.
type checkedStream struct {
	raft.StreamLayer
	frames *frames.Guard
}

// Accept implements net.Listener.
func (c checkedStream) Accept() (net.Conn, error) {
	conn, err := c.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return c.frames.Requests(conn), nil
}

// Dial implements raft.StreamLayer.
func (c checkedStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := c.StreamLayer.Dial(to, timeout)
	if err != nil {
		return nil, err
	}
	return c.frames.Answers(conn), nil
}
