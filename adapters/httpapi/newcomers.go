package httpapi

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// newcomerGrace is how long a connection has, however many there are, to ask for
// something. A client's first request comes right behind its connection.
const newcomerGrace = 200 * time.Millisecond

// newcomers are the open connections that have asked for nothing yet: no request of
// theirs has arrived whole, or been answered. Strangers get them for nothing, and each takes some
// tens of kilobytes, so there are at most max of them. When there are, the next
// one waits until one of them has asked or gone, or until the oldest has had its
// grace: then that one gives way. Who comes behind it waits in the kernel. So who asks at once is heard, also
// when a thousand come in the same moment, and who does not takes nobody's place
// for long.
//
// Safe for concurrent use; it has no goroutine.
type newcomers struct {
	max       int
	displaced prometheus.Counter
	// fewer holds a token when there may be room again.
	fewer chan struct{}

	mu      sync.Mutex // guards what follows
	members map[net.Conn]*newcomer
	closed  bool
}

// newcomer is one connection.
type newcomer struct {
	conn  net.Conn
	since time.Time
	heard atomic.Bool // it has asked for something
	begun bool        // its first request is being handled; guarded by newcomers.mu
}

func newNewcomers(max int, displaced prometheus.Counter) *newcomers {
	return &newcomers{
		max:       max,
		displaced: displaced,
		fewer:     make(chan struct{}, 1),
		members:   map[net.Conn]*newcomer{},
	}
}

// door accepts connections as long as there is room for guests, and for newcomers.
type door struct {
	*net.TCPListener
	guests    *guests
	newcomers *newcomers
}

// Accept implements net.Listener. Nobody has to give way before there is somebody
// who needs the room.
func (d door) Accept() (net.Conn, error) {
	for {
		conn, err := d.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if admitted := d.guests.admit(conn); admitted != nil {
			d.newcomers.makeRoom()
			return admitted, nil
		}
	}
}

// makeRoom returns when there is room for one more, after at most newcomerGrace.
func (n *newcomers) makeRoom() {
	for {
		oldest, wait := n.displace()
		if oldest != nil {
			_ = oldest.conn.Close()
			n.displaced.Inc()
		}
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-n.fewer:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// displace takes out the oldest member, for the caller to close, if that is needed
// for one more and it has had its grace. Otherwise it gives how long to wait for
// that, and no time when there is room.
func (n *newcomers) displace() (oldest *newcomer, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.members) < n.max || n.closed {
		return nil, 0
	}
	// A walk over the few hundred there may be is cheap beside an accept.
	for _, member := range n.members {
		if oldest == nil || member.since.Before(oldest.since) {
			oldest = member
		}
	}
	if wait = newcomerGrace - time.Since(oldest.since); wait > 0 {
		return nil, wait
	}
	delete(n.members, oldest.conn)
	return oldest, 0
}

type newcomerKey struct{}

// greet is an http.Server's ConnContext: requests name the newcomer that they
// come from.
func (n *newcomers) greet(ctx context.Context, conn net.Conn) context.Context {
	arrived := &newcomer{conn: conn, since: time.Now()}
	n.mu.Lock()
	if !n.closed {
		n.members[conn] = arrived
	}
	closed := n.closed
	n.mu.Unlock()
	if closed {
		_ = conn.Close()
	}
	return context.WithValue(ctx, newcomerKey{}, arrived)
}

// arrive is told of every request, and says whether it is to be answered: of a
// connection that was closed before its first one, it is not. Where a body belongs to
// the first one, that has to arrive, too (see arrival), unless it is one that is not
// looked at.
func (n *newcomers) arrive(r *http.Request) bool {
	from, known := newcomerOf(r.Context())
	switch {
	case !known || from.heard.Load():
		return true
	case r.Body == http.NoBody || r.Method == http.MethodGet || r.Method == http.MethodHead:
		return n.hearFirst(from)
	}
	return n.begin(from)
}

// hear makes the connection of a request no newcomer any more, whatever has arrived
// of the request.
func (n *newcomers) hear(ctx context.Context) {
	if from, known := newcomerOf(ctx); known && !from.heard.Load() {
		n.hearFirst(from)
	}
}

func newcomerOf(ctx context.Context) (*newcomer, bool) {
	from, known := ctx.Value(newcomerKey{}).(*newcomer)
	return from, known
}

// begin says whether from, whose first request is not whole yet, has not given way.
func (n *newcomers) begin(from *newcomer) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	from.begun = true
	return n.members[from.conn] == from || from.heard.Load()
}

// hearFirst says whether from had not given way before.
func (n *newcomers) hearFirst(from *newcomer) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.members[from.conn] == from {
		from.heard.Store(true)
		n.remove(from.conn)
	}
	return from.heard.Load() // HTTP/2 brings several first requests at once
}

// leave is told of every connection that is closed.
func (n *newcomers) leave(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remove(conn)
}

// remove lets makeRoom know. mu is held.
func (n *newcomers) remove(conn net.Conn) {
	delete(n.members, conn)
	select {
	case n.fewer <- struct{}{}:
	default:
	}
}

// close closes all that are not being handled, and from now on those who arrive. It
// may be called again.
func (n *newcomers) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for conn, member := range n.members {
		if !member.begun {
			_ = conn.Close()
			n.remove(conn)
		}
	}
}
