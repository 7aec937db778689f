// Package stream dials and accepts the connections on which instances send each other raft's
// messages. Every connection has gone through the preface when a caller gets it. The package
// never reads or writes what comes after the preface.
package stream

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// Config says where a Stream gets its connections from. Every field is required.
type Config struct {
	// Port is the raft port of this instance. Its Accept returns only connections that have
	// gone through the preface. The Stream closes it.
	Port net.Listener
	// Dial connects to the raft port at address. When ctx ends later, that does not close the
	// connection.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Advertised is the address at which other instances reach this one.
	Advertised string
	// Preface is what this instance sends and expects in the preface when it dials.
	Preface *preface.Preface
}

// Stream dials and accepts connections between the raft ports of instances. It keeps track of
// the open ones, so that Close can close them: raft's transport leaves them open, with
// goroutines blocked on them. Safe for concurrent use.
type Stream struct {
	config  Config
	running context.Context // ends with Close; its cause is net.ErrClosed
	stop    context.CancelCauseFunc
	ended   chan struct{}

	mu     sync.Mutex
	closed bool
	open   map[*streamConn]struct{}
}

// New returns a Stream, which the caller must close.
func New(config Config) *Stream {
	s := &Stream{config: config, ended: make(chan struct{}, 1), open: map[*streamConn]struct{}{}}
	s.running, s.stop = context.WithCancelCause(context.Background())
	return s
}

// Accept implements net.Listener.
func (s *Stream) Accept() (net.Conn, error) {
	conn, err := s.config.Port.Accept()
	if err != nil {
		return nil, err
	}
	return s.remember(conn, s.noteEnd)
}

// Ended returns a channel that holds a token if the user of an accepted connection has closed
// it since the last token was taken.
func (s *Stream) Ended() <-chan struct{} { return s.ended }

func (s *Stream) noteEnd() {
	select {
	case s.ended <- struct{}{}:
	default:
	}
}

// Dial connects to the instance with this id, or to any instance if id is empty. A host name
// is resolved each time. Close cancels a dial in progress, so that nobody waits for its
// timeout. The error names the address; if the preface failed, it wraps an error of package
// preface.
func (s *Stream) Dial(id, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.running, timeout)
	defer cancel()
	conn, err := s.config.Dial(ctx, address)
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
		conn = nonvoterConn{conn, func() bool { return s.config.Preface.Nonvoter(id) }}
	}
	return s.remember(conn, func() {})
}

// greet goes through the preface with the instance named id until ctx ends. It closes conn
// on an error. The connection is restricted if that instance is in quarantine.
func (s *Stream) greet(ctx context.Context, conn net.Conn, id string) (restricted bool, err error) {
	unbind := context.AfterFunc(ctx, func() { conn.Close() })
	greeting := *s.config.Preface
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
func (s *Stream) remember(conn net.Conn, ended func()) (net.Conn, error) {
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

// Close implements net.Listener. It closes the port and every connection, which unblocks their
// users.
func (s *Stream) Close() error {
	s.stop(net.ErrClosed)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Reset()
	return s.config.Port.Close()
}

// Reset closes every open connection, but not the Stream.
func (s *Stream) Reset() {
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
func (s *Stream) Addr() net.Addr { return advertised(s.config.Advertised) }

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

type streamConn struct {
	net.Conn
	stream *Stream
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
