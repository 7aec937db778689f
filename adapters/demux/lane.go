package demux

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"sync"
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

	mu         sync.Mutex // guards what follows
	changed    sync.Cond  // signalled for each connection in backlog, broadcast when closed
	backlog    []passage  // waits for Accept, oldest first
	closed     Reason     // why it is closed; none while it is open
	handedOver uint64
	evicted    uint64
}

func newLane(d *Demux, first byte, config LaneConfig) *Lane {
	config.Backlog = cmp.Or(config.Backlog, DefaultBacklog)
	lane := &Lane{demux: d, first: first, config: config}
	lane.changed.L = &lane.mu
	if config.MaxOpen > 0 {
		lane.open = newCrowd(config.MaxOpen)
	}
	return lane
}

// Accept waits for the next connection of the lane, which is the caller's to
// close. Its only error is net.ErrClosed, for good, after Close of the lane or
// of the Demux.
func (l *Lane) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.backlog) == 0 {
		if l.closed != none {
			return nil, fmt.Errorf("demux: lane %#02x: accept: %w", l.first, net.ErrClosed)
		}
		l.changed.Wait()
	}
	next := l.backlog[0]
	l.backlog[0] = passage{} // the array behind the slice must not keep it
	l.backlog = l.backlog[1:]
	l.handedOver++
	return next.ready, nil
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
	if l.closed == none {
		l.closed = why
	}
	left := l.backlog
	l.backlog = nil
	l.changed.Broadcast()
	l.mu.Unlock()
	for _, through := range left {
		l.demux.reject(through, why, nil)
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
	through.ready = ready // from here on it is closed, too, if anything goes wrong
	// The lane's own deadlines were for the handshake. The socket is what they
	// end up on, whatever is wrapped around it.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return through, rejection{HandshakeFailed, err}
	}
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
	victim, reason := l.enqueue(through)
	switch {
	case victim.ready != nil:
		l.demux.reject(victim, Overload, nil)
	case victim.socket != nil:
		_ = victim.socket.Close()
	}
	return reason
}

// enqueue may give back a victim, for the caller to close outside of mu: it is
// rejected if it is ready, otherwise its owner has it already.
func (l *Lane) enqueue(through passage) (victim passage, reason Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed != none:
		return passage{}, l.closed
	case len(l.backlog) >= l.config.Backlog:
		return passage{}, BacklogFull
	}
	if conn, ok := through.socket.(*counted); ok {
		evicted, ok := conn.enter()
		if !ok {
			return passage{}, HandshakeFailed
		}
		victim = l.withdraw(evicted)
	}
	l.backlog = append(l.backlog, through)
	l.changed.Signal()
	return victim, none
}

// withdraw takes an evicted connection out of the backlog if it still waits
// there: Accept is not to return what is closed, nor is that to take the room of
// what is not. mu is held since before the eviction, so Accept can't come first.
func (l *Lane) withdraw(evicted *member) passage {
	if evicted == nil {
		return passage{}
	}
	for at, waiting := range l.backlog {
		if waiting.socket.(*counted).TCPConn == evicted.conn {
			l.backlog = slices.Delete(l.backlog, at, at+1)
			return waiting
		}
	}
	l.evicted++
	return passage{socket: evicted.conn}
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
	crowd *crowd

	mu     sync.Mutex // a handshake may leave behind a goroutine that closes it
	member *member    // nil until it is delivered
	closed bool
}

// enter takes a place, perhaps that of victim, who is the caller's to close. It
// says false, and takes none, when the connection is closed already: nobody
// would give the place back.
func (c *counted) enter() (victim *member, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false
	}
	c.member, victim = c.crowd.add(c.TCPConn, networkOf(c.RemoteAddr()))
	return victim, true
}

// Close closes the connection and makes room for another.
func (c *counted) Close() error {
	c.mu.Lock()
	c.closed = true
	member := c.member
	c.mu.Unlock()
	if member != nil {
		c.crowd.leave(member)
	}
	return c.TCPConn.Close()
}
