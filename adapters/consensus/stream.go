package consensus

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// stream is raft's way to the network: connections that went through the
// preface, in and out, on the raft port. It remembers them all, because raft's
// transport leaves them open, and goroutines blocked on them, when it is closed.
type stream struct {
	port       net.Listener
	dial       func(ctx context.Context, address string) (net.Conn, error)
	advertised string
	preface    *preface.Preface
	running    context.Context // ends with the stream, as net.ErrClosed
	stop       context.CancelCauseFunc
	// ended holds a token when a connection that another instance made has ended.
	ended chan struct{}

	mu     sync.Mutex
	closed bool
	open   map[*streamConn]struct{}
}

func newStream(port net.Listener, dial func(context.Context, string) (net.Conn, error), advertised string, p *preface.Preface) *stream {
	s := &stream{port: port, dial: dial, advertised: advertised, preface: p, ended: make(chan struct{}, 1), open: map[*streamConn]struct{}{}}
	s.running, s.stop = context.WithCancelCause(context.Background())
	return s
}

// Accept implements net.Listener: the port lets nobody in who is not through the
// preface.
func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.port.Accept()
	if err != nil {
		return nil, err
	}
	return s.remember(conn, s.noteEnd)
}

func (s *stream) noteEnd() {
	select {
	case s.ended <- struct{}{}:
	default:
	}
}

// Dial implements raft.StreamLayer; to is a destination. A host name is resolved
// every time. Close ends a dial that is under way, so that nobody has to wait for
// its timeout.
func (s *stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.running, timeout)
	defer cancel()
	id, address := splitDestination(to)
	conn, err := s.dial(ctx, address)
	restricted := false
	if err == nil {
		restricted, err = s.greet(ctx, conn, id)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // how it shows depends on how far the dial was
		}
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	if restricted {
		conn = nonvoterConn{conn, func() bool { return s.preface.Nonvoter(id) }}
	}
	return s.remember(conn, func() {})
}

// greet goes through the preface with the instance named id, as long as ctx
// lasts, and closes conn on an error.
func (s *stream) greet(ctx context.Context, conn net.Conn, id string) (restricted bool, err error) {
	unbind := context.AfterFunc(ctx, func() { conn.Close() })
	greeting := *s.preface
	greeting.Expects = id
	restricted, err = greeting.Dial(conn)
	if !unbind() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
	}
	return restricted, err
}

// remember keeps conn until it is closed by whoever uses it, which ended is told of.
func (s *stream) remember(conn net.Conn, ended func()) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	c := &streamConn{Conn: conn, stream: s, ended: ended}
	s.open[c] = struct{}{}
	return c, nil
}

// Close implements net.Listener. It ends every connection, so that whoever is
// blocked on one returns.
func (s *stream) Close() error {
	s.stop(net.ErrClosed)
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for conn := range open {
		conn.Conn.Close()
	}
	return s.port.Close()
}

// reset ends every connection, and lets new ones be made.
func (s *stream) reset() {
	s.mu.Lock()
	open := s.open
	if !s.closed {
		s.open = map[*streamConn]struct{}{}
	}
	s.mu.Unlock()
	for conn := range open {
		conn.Conn.Close()
	}
}

// Addr implements net.Listener. Raft tells it to others as this instance's
// address, so it is the advertised one; a host name stays a name.
func (s *stream) Addr() net.Addr { return advertised(s.advertised) }

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

type streamConn struct {
	net.Conn
	stream *stream
	ended  func()
}

// nonvoterConn leads to an instance in quarantine. Nothing is sent on it to one
// that counts: raft keeps connections, and who made one in another term may have
// it as a voter by now.
type nonvoterConn struct {
	net.Conn
	isNonvoter func() bool
}

// Write implements net.Conn.
func (c nonvoterConn) Write(b []byte) (int, error) {
	if !c.isNonvoter() {
		c.Close()
		return 0, preface.ErrQuarantined
	}
	return c.Conn.Write(b)
}

func (c *streamConn) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.open, c)
	c.stream.mu.Unlock()
	c.ended()
	return c.Conn.Close()
}
