package conns

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// pendingConns are the open connections whose first request has neither arrived in full
// nor been answered. They cost a client nothing and the server tens of kilobytes each, so
// there are at most max of them. When there are, the next connection waits until one of
// them is established or closed, or until the oldest has been pending for grace:
// then the oldest is displaced. Connections behind the next one wait in the kernel. So a
// client that sends its request at once is served, also when a thousand connect in the
// same moment, and a client that sends nothing keeps its place only for a short time.
//
// Safe for concurrent use; it has no goroutine.
type pendingConns struct {
	max       int
	grace     time.Duration
	displaced func()
	// room holds a token when there may be room again.
	room chan struct{}

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]*pendingConn
	closed bool
}

// pendingConn is one connection. The contexts of its requests hold it for as long as it
// is open, also once it is established.
type pendingConn struct {
	conn        net.Conn
	since       time.Time
	established atomic.Bool // its first request has arrived or been answered
	handling    bool        // its first request is being handled; guarded by pendingConns.mu
}

func newPendingConns(max int, grace time.Duration, displaced func()) *pendingConns {
	return &pendingConns{
		max:       max,
		grace:     grace,
		displaced: displaced,
		room:      make(chan struct{}, 1),
		conns:     map[net.Conn]*pendingConn{},
	}
}

// limitListener accepts connections within the limits of connections and pending.
type limitListener struct {
	*net.TCPListener
	connections *connections
	pending     *pendingConns
}

// Accept implements net.Listener. It makes room only after a connection has come: no
// connection is displaced before another one needs its place.
func (l limitListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if admitted := l.connections.admit(conn); admitted != nil {
			l.pending.makeRoom()
			return admitted, nil
		}
	}
}

// makeRoom returns when there is room for one more, after at most p.grace.
func (p *pendingConns) makeRoom() {
	for {
		oldest, wait := p.displace()
		if oldest != nil {
			_ = oldest.conn.Close()
			p.displaced()
		}
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-p.room:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// displace removes the oldest connection, for the caller to close, if there is no room
// otherwise and its grace is over. If its grace is not over, wait is what is left of it.
// If there is room, wait is zero.
func (p *pendingConns) displace() (oldest *pendingConn, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) < p.max || p.closed {
		return nil, 0
	}
	// To walk over a few hundred is cheap beside an accept.
	for _, candidate := range p.conns {
		if oldest == nil || candidate.since.Before(oldest.since) {
			oldest = candidate
		}
	}
	if wait = p.grace - time.Since(oldest.since); wait > 0 {
		return nil, wait
	}
	delete(p.conns, oldest.conn)
	return oldest, 0
}

type pendingConnKey struct{}

// connContext is an http.Server's ConnContext: it adds conn, and the contexts of its
// requests name it.
func (p *pendingConns) connContext(ctx context.Context, conn net.Conn) context.Context {
	added := &pendingConn{conn: conn, since: time.Now()}
	p.mu.Lock()
	if !p.closed {
		p.conns[conn] = added
	}
	closed := p.closed
	p.mu.Unlock()
	if closed {
		_ = conn.Close()
	}
	return context.WithValue(ctx, pendingConnKey{}, added)
}

// admit is called with every request, and reports whether to answer it: it is not
// answered if its connection was closed before. A first request establishes its
// connection once its body has arrived too (see Body), or at once if its body is not read.
func (p *pendingConns) admit(r *http.Request) bool {
	from, known := pendingConnOf(r.Context())
	switch {
	case !known || from.established.Load():
		return true
	case r.Body == http.NoBody || r.Method == http.MethodGet || r.Method == http.MethodHead:
		return p.promote(from)
	}
	return p.beginRequest(from)
}

// establish ends the pending state of a request's connection, however much of the request
// has arrived.
func (p *pendingConns) establish(ctx context.Context) {
	if from, known := pendingConnOf(ctx); known && !from.established.Load() {
		p.promote(from)
	}
}

func pendingConnOf(ctx context.Context) (*pendingConn, bool) {
	from, known := ctx.Value(pendingConnKey{}).(*pendingConn)
	return from, known
}

// beginRequest notes that the first request of from, whose body is still to come, is
// being handled. It reports whether from is still open, as far as p knows.
func (p *pendingConns) beginRequest(from *pendingConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	from.handling = true
	return p.conns[from.conn] == from || from.established.Load()
}

// promote makes from established, and reports false if it was displaced before.
func (p *pendingConns) promote(from *pendingConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[from.conn] == from {
		from.established.Store(true)
		p.removeLocked(from.conn)
	}
	return from.established.Load() // HTTP/2 has several first requests at once
}

// remove is called with every connection that is closed.
func (p *pendingConns) remove(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removeLocked(conn)
}

// removeLocked also wakes makeRoom. p.mu is held.
func (p *pendingConns) removeLocked(conn net.Conn) {
	delete(p.conns, conn)
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// close closes all pending connections but those whose request is being handled, and from
// now on every new one. It may be called again.
func (p *pendingConns) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for conn, pending := range p.conns {
		if !pending.handling {
			_ = conn.Close()
			p.removeLocked(conn)
		}
	}
}
