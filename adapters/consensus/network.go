package consensus

import (
	"context"
	"net"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// Network carries raft connections between instances. Safe for concurrent use.
type Network interface {
	// Listen gives the raft port of this instance, once. Accept gives connections
	// that accept has let in, each of which it is given in a goroutine of its own,
	// within a bound of the network's, and may read and write.
	Listen(accept func(net.Conn) error) (net.Listener, error)

	// Dial connects to the raft port at address within ctx, which bounds nothing
	// afterwards.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// lane is the Network of an instance that runs: RaftLane of its port.
type lane struct{ port *demux.Demux }

// Listen implements Network.
func (l lane) Listen(accept func(net.Conn) error) (net.Listener, error) {
	return l.port.Lane(RaftLane, demux.LaneConfig{
		Handshake: func(conn net.Conn) (net.Conn, error) { return conn, accept(conn) },
		MaxOpen:   maxOpen,
	})
}

// Dial implements Network.
func (lane) Dial(ctx context.Context, address string) (net.Conn, error) {
	return demux.Dial(ctx, address, RaftLane)
}
