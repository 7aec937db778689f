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

// stream is raft's stream layer: it dials and accepts connections on the raft port that
// have gone through the preface. It keeps track of all of them and closes them in Close,
// because raft's transport leaves them open, with goroutines blocked on them.
type stream struct {
	port       net.Listener
	dial       func(ctx context.Context, address string) (net.Conn, error)
	advertised string
	preface    *preface.Preface
	running    context.Context // ends with Close; its cause is net.ErrClosed
	stop       context.CancelCauseFunc
	// ended holds a token when an accepted connection has ended.
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

// Accept implements net.Listener. The port accepts only connections that have gone through
// the preface.
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

// Dial implements raft.StreamLayer; to is a destination. A host name is resolved each
// time. Close cancels a dial in progress, so that nobody waits for its timeout.
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
			err = context.Cause(ctx) // otherwise the error would depend on how far the dial had come
		}
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	if restricted {
		conn = nonvoterConn{conn, func() bool { return s.preface.Nonvoter(id) }}
	}
	return s.remember(conn, func() {})
}

// greet goes through the preface with the instance named id until ctx ends. It closes conn
// on an error. The connection is restricted if that instance is in quarantine.
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

// remember tracks conn until its user closes it; then it calls ended.
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

// Close implements net.Listener. It closes every connection, which unblocks their users.
func (s *stream) Close() error {
	s.stop(net.ErrClosed)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.reset()
	return s.port.Close()
}

// reset closes every connection, but not the stream.
func (s *stream) reset() {
	s.mu.Lock()
	open := s.open
	s.open = map[*streamConn]struct{}{}
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

// nonvoterConn is a connection to an instance in quarantine. It closes itself instead of
// sending once that instance is a voter: raft pools connections, and the membership may
// have changed since this one was made.
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
