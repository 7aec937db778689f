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
	// One more evicts another, chosen as for Config.MaxHandshakes, which is closed
	// under its owner. It is for lanes without authentication, where strangers could
	// otherwise use up the file descriptors of the process, and so block all lanes.
	// A connection of such a lane has all methods of a *net.TCPConn without being
	// one.
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

// Lane is the net.Listener of the connections that begin with one byte, which has
// been read already. Connections are *net.TCPConn, unless LaneConfig says otherwise.
type Lane struct {
	demux  *Demux
	first  byte
	config LaneConfig
	open   *limiter // nil without MaxOpen

	mu         sync.Mutex    // guards what follows
	changed    sync.Cond     // signalled for each connection in backlog, broadcast when closed
	backlog    []pendingConn // waits for Accept, oldest first
	closed     Reason        // why it is closed; none while it is open
	handedOver uint64
	evicted    uint64
}

func newLane(d *Demux, first byte, config LaneConfig) *Lane {
	config.Backlog = cmp.Or(config.Backlog, DefaultBacklog)
	lane := &Lane{demux: d, first: first, config: config}
	lane.changed.L = &lane.mu
	if config.MaxOpen > 0 {
		lane.open = newLimiter(config.MaxOpen)
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
	l.backlog[0] = pendingConn{} // the array behind the slice must not keep it
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

// handshake runs LaneConfig.Handshake. The caller must close the result even if there
// is an error.
func (l *Lane) handshake(conn *net.TCPConn) (pendingConn, error) {
	through := pendingConn{socket: conn}
	if l.open != nil {
		through.socket = &limitedConn{TCPConn: conn, limiter: l.open}
	}
	if l.config.Handshake == nil {
		through.ready = through.socket
		return through, nil
	}
	ready, err := l.runHandshake(through.socket)
	if err != nil {
		return through, err
	}
	through.ready = ready // from here on an error closes it as well
	// Clear the deadlines that the handshake set. They are on the socket, whatever
	// is wrapped around it.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return through, rejection{HandshakeFailed, err}
	}
	return through, nil
}

func (l *Lane) runHandshake(conn net.Conn) (ready net.Conn, err error) {
	// A bug in this code, which reads the bytes of strangers, must cost a
	// connection and not the process.
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

// deliver puts a connection into the backlog. It never waits. It returns none, or why
// the connection was rejected.
func (l *Lane) deliver(through pendingConn) Reason {
	victim, reason := l.enqueue(through)
	switch {
	case victim.ready != nil:
		l.demux.reject(victim, Overload, nil)
	case victim.socket != nil:
		_ = victim.socket.Close()
	}
	return reason
}

// enqueue is deliver under mu. It may return a victim, which the caller must close
// without mu: one that is ready was still in the backlog, otherwise its owner has it.
func (l *Lane) enqueue(through pendingConn) (victim pendingConn, reason Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed != none:
		return pendingConn{}, l.closed
	case len(l.backlog) >= l.config.Backlog:
		return pendingConn{}, BacklogFull
	}
	if conn, ok := through.socket.(*limitedConn); ok {
		evicted, ok := conn.acquire()
		if !ok {
			return pendingConn{}, HandshakeFailed
		}
		victim = l.unqueue(evicted)
	}
	l.backlog = append(l.backlog, through)
	l.changed.Signal()
	return victim, none
}

// unqueue removes an evicted connection from the backlog if it still waits there:
// Accept must not return a closed connection, nor may that take up room. mu is held
// since before the eviction, so Accept can't come first.
func (l *Lane) unqueue(evicted *entry) pendingConn {
	if evicted == nil {
		return pendingConn{}
	}
	for at, waiting := range l.backlog {
		if waiting.socket.(*limitedConn).TCPConn == evicted.conn {
			l.backlog = slices.Delete(l.backlog, at, at+1)
			return waiting
		}
	}
	l.evicted++
	return pendingConn{socket: evicted.conn}
}

// pendingConn is a connection between its first byte and Accept.
type pendingConn struct {
	socket net.Conn // what the handshake was given
	ready  net.Conn // what Accept returns; nil until the handshake has passed
}

// discard closes the socket before its wrapper, so that a wrapper that says
// good-bye on the wire (as TLS does) can't be held up by the other side.
func (p pendingConn) discard() {
	_ = p.socket.Close()
	if p.ready != nil && p.ready != p.socket {
		_ = p.ready.Close()
	}
}

// limitedConn is a connection that leaves its limiter when it is closed.
type limitedConn struct {
	*net.TCPConn
	limiter *limiter

	mu     sync.Mutex // a handshake may leave behind a goroutine that closes it
	entry  *entry     // nil until it is delivered
	closed bool
}

// acquire enters the connection into its limiter. It may evict a victim, which the
// caller must close. It returns false, and does nothing, if the connection is closed
// already: nobody would remove it from the limiter.
func (c *limitedConn) acquire() (victim *entry, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false
	}
	c.entry, victim = c.limiter.add(c.TCPConn, networkOf(c.RemoteAddr()))
	return victim, true
}

// Close closes the connection and makes room for another.
func (c *limitedConn) Close() error {
	c.mu.Lock()
	c.closed = true
	entered := c.entry
	c.mu.Unlock()
	if entered != nil {
		c.limiter.release(entered)
	}
	return c.TCPConn.Close()
}
