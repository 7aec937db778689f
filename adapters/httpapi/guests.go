package httpapi

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

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
}

// guest is one of them, until it is closed.
type guest struct {
	*net.TCPConn
	leave func()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	defer g.leave()
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
	return &guest{conn, sync.OnceFunc(g.leave)}
}

func (g *guests) leave() {
	if open := g.open.Add(-1); open < g.max-g.max/10 && g.full.CompareAndSwap(true, false) {
		g.logger.Info("connections are taken again", "connections", open)
	}
}
