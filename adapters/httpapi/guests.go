package httpapi

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// guests are the open connections, of which there are at most max: what files the process
// may have open beside them are for its log, and for its peers. One that comes when there
// are as many is closed at once, so that its client knows, and asks another instance.
// Safe for concurrent use.
type guests struct {
	max     int64 // zero: any number
	open    atomic.Int64
	full    atomic.Bool // which is logged; until a tenth have gone
	refused prometheus.Counter
	logger  *slog.Logger

	grace   atomic.Int64 // a time.Duration, how long a write may take; zero: as long as net/http says
	mu      sync.Mutex
	members map[*guest]struct{} // without those that are no business of net/http's any more; guarded by mu
}

func newGuests(max int, refused prometheus.Counter, logger *slog.Logger) *guests {
	return &guests{max: int64(max), refused: refused, logger: logger, members: map[*guest]struct{}{}}
}

// guest is one of them, until it is closed.
type guest struct {
	*net.TCPConn
	among  *guests
	once   sync.Once // it leaves
	exempt atomic.Bool
}

// Write implements net.Conn.
func (g *guest) Write(b []byte) (int, error) {
	if grace := g.among.grace.Load(); grace > 0 {
		g.bound(time.Duration(grace))
	}
	return g.TCPConn.Write(b)
}

// bound gives the write that is under way, or comes next, grace from now.
func (g *guest) bound(grace time.Duration) {
	if !g.exempt.Load() {
		_ = g.SetWriteDeadline(time.Now().Add(grace)) // of one that is closed no write takes long
	}
}

// Close implements net.Conn.
func (g *guest) Close() error {
	defer g.once.Do(func() { g.among.leave(g) })
	return g.TCPConn.Close()
}

// admit gives a connection back, to be closed by whoever uses it; nil when it was refused.
func (g *guests) admit(conn *net.TCPConn) *guest {
	if open := g.open.Add(1); g.max > 0 && open > g.max {
		g.open.Add(-1)
		_ = conn.Close()
		g.refused.Inc()
		if g.full.CompareAndSwap(false, true) {
			g.logger.Warn("connections are refused: there are as many as the limit of open files allows", "connections", g.max)
		}
		return nil
	}
	admitted := &guest{TCPConn: conn, among: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members[admitted] = struct{}{}
	return admitted
}

func (g *guests) leave(one *guest) {
	g.forget(one)
	if open := g.open.Add(-1); open < g.max-g.max/10 && g.full.CompareAndSwap(true, false) {
		g.logger.Info("connections are taken again", "connections", open)
	}
}

func (g *guests) forget(one *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.members, one)
}

// exempt is told of a connection that is none of net/http's any more: whoever has it
// bounds its writes.
func (g *guests) exempt(conn net.Conn) {
	if one, is := conn.(*guest); is {
		one.exempt.Store(true)
		g.forget(one)
	}
}

// hurry is called when the server closes: each socket has grace for what it is to take
// now, and from now on for whatever is written to it.
func (g *guests) hurry(grace time.Duration) {
	g.grace.Store(int64(max(grace, 1)))
	g.mu.Lock()
	defer g.mu.Unlock()
	for one := range g.members {
		one.bound(grace)
	}
}
