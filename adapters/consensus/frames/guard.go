// Package frames checks the bytes that a peer sends on a connection of raft's transport,
// before raft's decoder reads them. A message that announces more than an instance sends, or
// a snapshot that raft would take for a request, ends its connection. So does a snapshot that
// makes no progress. It keeps and changes nothing of what it lets through, and never looks
// into an entry.
package frames

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrHostile is returned by Read for bytes that no instance sends. Each later Read of the
// connection returns it too.
var ErrHostile = errors.New("not a message that an instance sends")

// Config says what a peer may send. Every field is required.
type Config struct {
	// MaxField is the greatest length of a string or block of bytes, such as an entry.
	MaxField int64
	// MaxElements is the greatest length of an array, such as the entries of a message.
	MaxElements int
	// ProtocolVersion is the latest version of raft's protocol. Raft reads snapshots of this
	// version and of the one before it.
	ProtocolVersion uint64
	// Timeout is how long a snapshot may make no progress, and how long each write of a
	// request may take.
	Timeout time.Duration
}

// Guard checks what the peers of one instance send. All of its connections share one limit on
// the bytes of incomplete messages. Safe for concurrent use.
type Guard struct {
	config   Config
	incoming atomic.Int64 // bytes of incomplete messages
}

// New returns a Guard without connections. A Guard need not be closed.
func New(config Config) *Guard { return &Guard{config: config} }

// Requests wraps a connection on which the peer sends requests. Read returns what the peer
// sends as long as an instance may send it, and ErrHostile from the first other byte on. Close
// closes conn. One goroutine may read while another writes; any may call Close.
func (g *Guard) Requests(conn net.Conn) net.Conn {
	return &checkedConn{Conn: conn, frames: frameChecker{config: &g.config, requests: true, quota: byteQuota{total: &g.incoming}, limit: maxIncoming}}
}

// Answers is like Requests, for a connection on which this instance sends the requests and the
// peer sends the answers.
func (g *Guard) Answers(conn net.Conn) net.Conn {
	return &checkedConn{Conn: conn, frames: frameChecker{config: &g.config, quota: byteQuota{total: &g.incoming}, limit: maxAnswer}}
}

// checkedConn is read by one goroutine, and written by one.
//
// It times out when a snapshot makes no progress. Raft 1.7.3 waits for an incoming snapshot
// as long as the connection lasts, in its main goroutine, which does not vote meanwhile. For
// an outgoing one it allows the time of the whole snapshot, minutes if it is large, while
// the follower may be back at another address.
type checkedConn struct {
	net.Conn
	frames frameChecker
	fault  error
}

// Read implements net.Conn. It returns nothing from the first refused byte on.
func (c *checkedConn) Read(p []byte) (int, error) {
	if c.fault != nil {
		return 0, c.fault
	}
	snapshot := c.frames.step == inSnapshot
	if snapshot {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.frames.config.Timeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	fine, fault := c.frames.check(p[:n])
	if snapshot {
		c.fault = err // raft goes on reading, to skip the rest of the snapshot
		if c.frames.step != inSnapshot {
			_ = c.Conn.SetReadDeadline(time.Time{}) // restoring the snapshot may take long
		}
	}
	if fault == nil {
		return n, err
	}
	c.fault = fault
	return fine, fault
}

// Write implements net.Conn. Each write of a request must end within the timeout: raft writes
// a snapshot in pieces of 256 KiB.
func (c *checkedConn) Write(p []byte) (int, error) {
	if !c.frames.requests {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.frames.config.Timeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *checkedConn) Close() error {
	c.frames.quota.release()
	return c.Conn.Close()
}

// byteQuota is one connection's share of the bytes of incomplete messages.
type byteQuota struct {
	total *atomic.Int64 // of all connections

	mu     sync.Mutex // Close comes from anywhere
	held   int64
	closed bool
}

func (p *byteQuota) reserve(n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	all := p.total.Add(n - p.held)
	p.held = n
	if all > maxIncoming {
		return hostile("messages of more than %d bytes at once, of all peers", maxIncoming)
	}
	return nil
}

func (p *byteQuota) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total.Add(-p.held)
	p.held, p.closed = 0, true
}
