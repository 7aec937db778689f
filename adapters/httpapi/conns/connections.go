package conns

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// connections limits and tracks the open connections. The process also needs open files
// for its log and for its peers, so there are at most max connections. A connection above
// that is closed at once, so that its client knows and asks another instance. Safe for
// concurrent use.
type connections struct {
	max     int64 // zero: no limit
	open    atomic.Int64
	full    atomic.Bool // the limit is logged; reset once a tenth of the connections are closed
	refused func()
	logger  *slog.Logger

	grace   atomic.Int64 // a time.Duration for each write during shutdown; zero: the deadlines of net/http
	mu      sync.Mutex
	tracked map[*trackedConn]struct{} // guarded by mu
}

func newConnections(max int, refused func(), logger *slog.Logger) *connections {
	return &connections{max: int64(max), refused: refused, logger: logger, tracked: map[*trackedConn]struct{}{}}
}

// trackedConn is an open connection that counts towards the limit.
type trackedConn struct {
	*net.TCPConn
	owner     *connections
	closeOnce sync.Once
	hijacked  atomic.Bool
}

// Write implements net.Conn.
func (c *trackedConn) Write(b []byte) (int, error) {
	if grace := c.owner.grace.Load(); grace > 0 {
		c.limitWrite(time.Duration(grace))
	}
	return c.TCPConn.Write(b)
}

// limitWrite gives the current write, or the next one, grace from now.
func (c *trackedConn) limitWrite(grace time.Duration) {
	if !c.hijacked.Load() {
		_ = c.SetWriteDeadline(time.Now().Add(grace)) // fails only when c is closed
	}
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	defer c.closeOnce.Do(func() { c.owner.remove(c) })
	return c.TCPConn.Close()
}

// admit returns conn as a tracked connection, which the caller must close. When the limit
// is reached it closes conn and returns nil.
func (c *connections) admit(conn *net.TCPConn) *trackedConn {
	if open := c.open.Add(1); c.max > 0 && open > c.max {
		c.open.Add(-1)
		_ = conn.Close()
		c.refused()
		if c.full.CompareAndSwap(false, true) {
			c.logger.Warn("connections are refused: there are as many as the limit of open files allows", "connections", c.max)
		}
		return nil
	}
	admitted := &trackedConn{TCPConn: conn, owner: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tracked[admitted] = struct{}{}
	return admitted
}

func (c *connections) remove(conn *trackedConn) {
	c.mu.Lock()
	delete(c.tracked, conn)
	c.mu.Unlock()
	if open := c.open.Add(-1); open < c.max-c.max/10 && c.full.CompareAndSwap(true, false) {
		c.logger.Info("connections are taken again", "connections", open)
	}
}

// hijacked is called when conn no longer belongs to net/http: its new owner sets its
// write deadlines. It still counts towards the limit.
func (c *connections) hijacked(conn net.Conn) {
	if tracked, ok := conn.(*trackedConn); ok {
		tracked.hijacked.Store(true)
	}
}

// shutdown is called when the server closes: the current write of each connection, and
// every later one, must end within grace.
func (c *connections) shutdown(grace time.Duration) {
	c.grace.Store(int64(max(grace, 1)))
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.tracked {
		conn.limitWrite(grace)
	}
}
