// Package conns keeps the connections of an http.Server within bounds: how many are open,
// how many of them have not sent their first request, and how long the rest of a request
// and each write of an answer may take once the server closes.
//
// It never answers a request, and never looks at a path, a header or a byte of a body.
// While the server is open it sets no deadline but one that it is given, for a part of a
// body: those of net/http apply.
//
// A limitListener accepts connections. connections limits how many are open. pendingConns
// limits how many of these have not sent their first request; above the limit the oldest
// is closed. A Body is tracked until all of it has arrived, and an http2Response until all
// of it is written. Both are transfers: when the server closes, each gets a short deadline.
package conns

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// ReadGrace is how long the server waits for the rest of a request once it closes:
	// enough for a body that is on its way, and little beside the time that there is to
	// stop. Nothing is lost with a request that does not arrive: nothing was done for it.
	ReadGrace = time.Second

	// WriteGrace is how long each write of an answer may take once the server closes: far
	// longer than any client that reads takes for what is written at once, at most some
	// hundred kilobytes.
	WriteGrace = 2 * time.Second
)

// Config is what a Tracker needs. All but MaxOpen must be given.
type Config struct {
	// MaxOpen is how many connections may be open. Further ones are closed at once. Zero:
	// no limit.
	MaxOpen int

	// MaxPending is how many connections may be open whose first request has not arrived.
	// When one more comes, the oldest is closed.
	MaxPending int

	// Refused is called for each connection that is closed because of MaxOpen, Displaced
	// for each that is closed because of MaxPending. The goroutine that accepts connections
	// calls both, and accepts no other one meanwhile.
	Refused, Displaced func()

	// LateBody is the error of reading a body whose rest has not come in time once the
	// server closes.
	LateBody error

	// Logger is told when connections begin to be refused, and when they are taken again.
	Logger *slog.Logger
}

// Tracker limits the connections of one http.Server, and tracks the request bodies that have
// not arrived in full and the answers of HTTP/2 that are not written in full. The server
// needs its Listener, its Handler, and its methods ConnContext and ConnState. Its methods
// may be called from any goroutine; it has none itself.
type Tracker struct {
	connections       *connections
	pending           *pendingConns
	bodies, responses transfers
	lateBody          error
}

// New returns a Tracker that has acquired nothing, and need not be closed.
func New(c Config) *Tracker {
	return &Tracker{
		connections: newConnections(c.MaxOpen, c.Refused, c.Logger),
		pending:     newPendingConns(c.MaxPending, c.Displaced),
		// After the body net/http reads on, to find out whether the client has gone, and
		// would take an expired deadline for that.
		bodies:    transfers{setDeadline: deadlines.SetReadDeadline, clearWhenDone: true},
		responses: transfers{setDeadline: deadlines.SetWriteDeadline},
		lateBody:  c.LateBody,
	}
}

// Listener returns a listener that accepts from l within the limits. To close it closes l.
func (t *Tracker) Listener(l *net.TCPListener) net.Listener {
	return limitListener{l, t.connections, t.pending}
}

// Handler returns a handler that calls next with every request that is to be answered, and
// panics with http.ErrAbortHandler if its connection was displaced. The request that next
// gets has a *Body, or http.NoBody.
func (t *Tracker) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !t.pending.admit(r) {
			panic(http.ErrAbortHandler) // the connection is closed
		}
		defer t.pending.establish(r.Context())
		if r.Body != http.NoBody {
			body := t.trackBody(w, r)
			defer body.handlerDone()
			r = r.WithContext(r.Context()) // a copy: net/http still needs the body of its own request
			r.Body = body
		}
		next.ServeHTTP(w, r)
	})
}

// ConnContext is for http.Server.ConnContext.
func (t *Tracker) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return t.pending.connContext(ctx, conn)
}

// ConnState is for http.Server.ConnState.
func (t *Tracker) ConnState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed:
		t.pending.remove(conn)
	case http.StateHijacked:
		t.connections.hijacked(conn)
	case http.StateIdle:
	default:
		return
	}
	t.bodies.connDone(conn)
}

// BeginShutdown is called when the server closes, before http.Server.Shutdown, and does not
// wait. It closes the connections that have sent no request, and from now on every new one.
// A body must have arrived within ReadGrace, and each write of an answer, the current one
// too, must end within WriteGrace; but if ctx ends soon, within half of the time until then.
// A hijacked connection is its owner's. It may be called again.
func (t *Tracker) BeginShutdown(ctx context.Context) {
	// A pending connection has no request in flight, but Shutdown would wait for it for
	// seconds.
	t.pending.close()
	readBy := time.Now().Add(graceWithin(ctx, ReadGrace))
	t.bodies.shutdown(func() time.Time { return readBy })
	grace := graceWithin(ctx, WriteGrace)
	t.responses.shutdown(func() time.Time { return time.Now().Add(grace) })
	t.connections.shutdown(grace)
}

// graceWithin is grace, or half of the time until ctx ends if that is less: what follows
// needs time too.
func graceWithin(ctx context.Context, grace time.Duration) time.Duration {
	if deadline, bounded := ctx.Deadline(); bounded {
		return min(grace, time.Until(deadline)/2)
	}
	return grace
}

// Unfinished returns how many bodies have not arrived in full, and how many answers of
// HTTP/2 are not written in full.
func (t *Tracker) Unfinished() (bodies, responses int) {
	return t.bodies.len(), t.responses.len()
}
