package consensus

import (
	"context"
	"net"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// Network carries raft connections between instances. Safe for concurrent use.
type Network interface {
	// Listen returns the raft port of this instance. It is called once. Each incoming
	// connection is given to accept, in a goroutine of its own and within a time that the
	// network bounds; accept may read and write. The listener returns those connections
	// for which accept returned nil.
	Listen(accept func(net.Conn) error) (net.Listener, error)

	// Dial connects to the raft port at address. The end of ctx cancels only the dial, not
	// the connection.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// lane is the Network outside simulations: RaftLane of the instance's port.
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
