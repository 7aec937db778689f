// Package conns keeps the connections of an http.Server within bounds: how many are open,
// how many of them have not sent their first request, and how long the rest of a request
// and each write of an answer may take once the server closes.
//
// It never answers a request, and never looks at a path, a header or a byte of a body.
// Until the server closes it sets only the deadlines that Body.LimitUntil is called with;
// apart from these, those of net/http apply.
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

// Config is what a Tracker needs. Every field but MaxOpen is required.
type Config struct {
	// MaxOpen is how many connections may be open. Any further one is closed at once. Zero
	// means no limit.
	MaxOpen int

	// MaxPending is how many of the open connections may be without a first request. When
	// there are as many and another one comes, the oldest is closed as soon as it has had
	// PendingGrace for its request.
	MaxPending   int
	PendingGrace time.Duration

	// Refused is called for each connection that is closed because of MaxOpen, Displaced
	// for each that is closed because of MaxPending. Neither may block, because no connection
	// is accepted until it returns.
	Refused, Displaced func()

	// LateBody is what Body.Read returns if the rest of the body has not arrived within
	// ReadGrace once the server closes.
	LateBody error

	// Logger logs when connections begin to be refused, and when they are accepted again.
	Logger *slog.Logger
}

// Tracker limits the connections of one http.Server, and tracks the request bodies that have
// not arrived in full and the answers of HTTP/2 that are not written in full. The server must
// accept from its Listener, serve with its Handler, and call its ConnContext and ConnState.
// Safe for concurrent use; a Tracker has no goroutines.
type Tracker struct {
	connections       *connections
	pending           *pendingConns
	bodies, responses transfers
	lateBody          error
}

// New returns a Tracker. It acquires nothing, so a Tracker need not be closed.
func New(c Config) *Tracker {
	return &Tracker{
		connections: newConnections(c.MaxOpen, c.Refused, c.Logger),
		pending:     newPendingConns(c.MaxPending, c.PendingGrace, c.Displaced),
		// After the body net/http reads on, to find out whether the client has gone, and
		// would take an expired deadline for that.
		bodies:    transfers{setDeadline: deadlines.SetReadDeadline, clearWhenDone: true},
		responses: transfers{setDeadline: deadlines.SetWriteDeadline},
		lateBody:  c.LateBody,
	}
}

// Listener returns a listener that accepts from l within the limits. Its Close closes l.
func (t *Tracker) Listener(l *net.TCPListener) net.Listener {
	return limitListener{l, t.connections, t.pending}
}

// Handler returns a handler that passes requests on to next. The body of each is a *Body or
// http.NoBody. If the connection of a request was closed because of MaxPending, the handler
// panics with http.ErrAbortHandler instead.
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

// BeginShutdown is called when the server closes, before http.Server.Shutdown. It does not
// wait, and may be called again. It closes the connections that have sent no request; from now
// on every new connection is closed. The rest of each body must arrive within ReadGrace, and
// each write of an answer, including the current one, must end within WriteGrace. Both are
// shortened to half of the time until the deadline of ctx if that is less. Hijacked connections
// are left to their owners.
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

// graceWithin returns grace, or half of the time until the deadline of ctx if that is less: the
// rest of the shutdown needs time too.
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
