package consensus

import (
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/frames"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/stream"
)

// peerFrames lets through all that an instance sends: no entry of the log is longer than
// maxPending, and no message has more entries than maxBatch.
var peerFrames = frames.Config{
	MaxField:        maxPending,
	MaxElements:     4 * maxBatch,
	ProtocolVersion: uint64(raft.ProtocolVersionMax),
	Timeout:         rpcTimeout,
}

// checkedStream is a raft.StreamLayer that checks what peers send, so that no message costs
// more memory than its sender has sent. The addresses that it dials are destinations.
type checkedStream struct {
	*stream.Stream
	frames *frames.Guard
}

// Accept implements net.Listener.
func (c checkedStream) Accept() (net.Conn, error) {
	conn, err := c.Stream.Accept()
	if err != nil {
		return nil, err
	}
	return c.frames.Requests(conn), nil
}

// Dial implements raft.StreamLayer; to is a destination.
func (c checkedStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, address := splitDestination(to)
	conn, err := c.Stream.Dial(id, address, timeout)
	if err != nil {
		return nil, err
	}
	return c.frames.Answers(conn), nil
}
