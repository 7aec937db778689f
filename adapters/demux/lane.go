package demux

import (
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultBacklog is what a zero LaneConfig.Backlog means.
const DefaultBacklog = 128

// LaneConfig says what a lane asks of a connection before it is handed over, and
// how many it holds. Its zero value is a lane that asks nothing.
type LaneConfig struct {
	// Handshake, when set, runs between the first byte and Accept, in a
	// goroutine of its own for each connection and within
	// Config.HandshakeTimeout: past that, or when the Demux needs the room or is
	// closed, the connection is closed under it and it has to return. It may
	// read, write and set deadlines (they are cleared afterwards); it must not
	// read past its own last byte unless the connection that it returns gives
	// back the rest. That connection is what Accept returns; its Close closes
	// the one that was given. On an error the connection is closed; a panic is
	// logged and counts as an error.
	Handshake func(net.Conn) (net.Conn, error)

	// Backlog bounds how many connections wait for Accept. One more is closed.
	// Zero means DefaultBacklog.
	Backlog int

	// MaxOpen, when not zero, bounds how many connections of the lane are open
	// at once, waiting for Accept or handed over, until their owner closes them.
	// One more takes the place of another, chosen as for Config.MaxHandshakes:
	// that one is closed under its owner. It is for lanes whose connections
	// prove nothing, where strangers could otherwise use up the process's file
	// descriptors and with them everybody's lane. A connection of such a lane
	// has all methods of a *net.TCPConn without being one.
	MaxOpen int
}

// Validate reports all that is wrong with c at once.
func (c LaneConfig) Validate() error {
	var faults []error
	if c.Backlog < 0 {
		faults = append(faults, fmt.Errorf("backlog %d is negative", c.Backlog))
	}
	if c.MaxOpen < 0 {
		faults = append(faults, fmt.Errorf("maximum of open connections %d is negative", c.MaxOpen))
	}
	return errors.Join(faults...)
}

// Lane is the net.Listener of the connections with one first byte, which it has
// taken off them. Connections are *net.TCPConn, unless LaneConfig says otherwise.
type Lane struct {
	demux  *Demux
	first  byte
	config LaneConfig
	open   *crowd // nil without MaxOpen

	handedOver atomic.Uint64
	done       chan struct{}
	backlog    chan passage // sent to only under mu and while not closed

	mu     sync.Mutex
	closed bool
}

func newLane(d *Demux, first byte, config LaneConfig) *Lane {
	if config.Backlog == 0 {
		config.Backlog = DefaultBacklog
	}
	lane := &Lane{
		demux:   d,
		first:   first,
		config:  config,
		done:    make(chan struct{}),
		backlog: make(chan passage, config.Backlog),
	}
	if config.MaxOpen > 0 {
		lane.open = newCrowd(config.MaxOpen)
	}
	return lane
}

// Accept waits for the next connection of the lane, which is the caller's to
// close. Its only error is net.ErrClosed, for good, after Close of the lane or
// of the Demux.
func (l *Lane) Accept() (net.Conn, error) {
	select {
	case next := <-l.backlog:
		l.handedOver.Add(1)
		return next.ready, nil
	case <-l.done:
		return nil, fmt.Errorf("demux: lane %#02x: accept: %w", l.first, net.ErrClosed)
	}
}

// Close ends Accept and closes the connections that wait for it, and from now on
// those that arrive. It leaves alone what was handed over, the other lanes and
// the Demux. It does not wait and may be called again.
func (l *Lane) Close() error {
	l.shut(LaneClosed)
	return nil
}

// Addr is the address of the Demux.
func (l *Lane) Addr() net.Addr {
	return l.demux.Addr()
}

func (l *Lane) shut(why Reason) {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
	l.mu.Unlock()
	// Nothing is added any more, and a consumer that takes one now owns it. Every
	// caller drains, so that each of them returns to an empty backlog.
	for {
		select {
		case left := <-l.backlog:
			l.demux.reject(left, why, nil)
		default:
			return
		}
	}
}

// welcome runs the handshake. What it returns has to be closed also when there
// is an error.
func (l *Lane) welcome(conn *net.TCPConn) (passage, error) {
	through := passage{socket: conn}
	if l.open != nil {
		through.socket = &counted{TCPConn: conn, crowd: l.open}
	}
	if l.config.Handshake == nil {
		through.ready = through.socket
		return through, nil
	}
	ready, err := l.shake(through.socket)
	if err != nil {
		return through, err
	}
	// The lane's own deadlines were for the handshake. The socket is what they
	// end up on, whatever is wrapped around it.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return through, rejection{HandshakeFailed, err}
	}
	through.ready = ready
	return through, nil
}

func (l *Lane) shake(conn net.Conn) (ready net.Conn, err error) {
	// A stranger's bytes reach this code first: its mistakes cost a connection,
	// not the process.
	defer func() {
		if cause := recover(); cause != nil {
			ready, err = nil, rejection{HandshakePanic, fmt.Errorf("%v\n%s", cause, debug.Stack())}
		}
	}()
	ready, err = l.config.Handshake(conn)
	if err == nil && ready == nil {
		err = errors.New("the handshake returned no connection")
	}
	if err != nil {
		return nil, rejection{HandshakeFailed, err}
	}
	return ready, nil
}

// deliver puts a connection into the backlog and never waits. The result is
// none, or why it was not taken.
func (l *Lane) deliver(through passage) Reason {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return LaneClosed
	}
	if len(l.backlog) == cap(l.backlog) { // under mu nobody else adds
		return BacklogFull
	}
	if conn, ok := through.socket.(*counted); ok {
		conn.member, _ = l.open.join(conn.TCPConn) // is never dispersed
	}
	l.backlog <- through
	return none
}

// passage is a connection on its way from its lane's byte to Accept.
type passage struct {
	socket net.Conn // what the handshake was given
	ready  net.Conn // what Accept returns; nil until the handshake has passed
}

// discard closes the socket before its wrapper, so that a wrapper that says
// good-bye on the wire (as TLS does) can't be held up by the other side.
func (p passage) discard() {
	_ = p.socket.Close()
	if p.ready != nil && p.ready != p.socket {
		_ = p.ready.Close()
	}
}

// counted is a connection that gives back its place when it is closed.
type counted struct {
	*net.TCPConn
	crowd  *crowd
	member *member // nil until it is delivered
}

// Close closes the connection and makes room for another.
func (c *counted) Close() error {
	if c.member != nil {
		c.crowd.leave(c.member)
	}
	return c.TCPConn.Close()
}
