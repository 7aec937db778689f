package httpapi

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// shutdownReadGrace is how long the server waits for the rest of a request once it
	// closes: enough for a body that is on its way, and little beside the time that there
	// is to stop. Nothing is lost with a request that does not arrive: nothing was done
	// for it.
	shutdownReadGrace = time.Second

	// shutdownWriteGrace is how long each write of an answer may take once the server
	// closes. One write is at most limitedWrite bytes of a list, or maxPiece of a backup:
	// little for any client that reads.
	shutdownWriteGrace = 2 * time.Second
)

// trackerConfig is what a tracker needs. All but maxOpen must be given.
type trackerConfig struct {
	// maxOpen is how many connections may be open. Further ones are closed at once. Zero:
	// no limit.
	maxOpen int

	// maxPending is how many of them may be open whose first request has not arrived. When
	// one more comes, the oldest is closed.
	maxPending int

	// refused is called for each connection that is closed because of maxOpen, displaced
	// for each that is closed because of maxPending. Both are called by the goroutine that
	// accepts connections.
	refused, displaced func()

	// lateBody is what reading a body returns when the server closes, and the rest did not
	// come in time.
	lateBody error

	// logger is told when connections begin to be refused, and when they are taken again.
	logger *slog.Logger
}

// tracker knows the open connections of an http.Server, and what is not read or written in
// full. It must be the server's connState and connContext, and its listener and its
// handler must wrap those of the server. Safe for concurrent use; it has no goroutine.
type tracker struct {
	connections *connections
	pending     *pendingConns
	// bodies are those that have not arrived in full, responses those of HTTP/2 that are not
	// written in full.
	bodies, responses transfers
	lateBody          error
}

func newTracker(c trackerConfig) *tracker {
	return &tracker{
		connections: newConnections(c.maxOpen, c.refused, c.logger),
		pending:     newPendingConns(c.maxPending, c.displaced),
		// After the body net/http reads on, to find out whether the client has gone, and
		// would take an expired deadline for that.
		bodies:    transfers{setDeadline: deadlines.SetReadDeadline, clearWhenDone: true},
		responses: transfers{setDeadline: deadlines.SetWriteDeadline},
		lateBody:  c.lateBody,
	}
}

// wrapListener returns l with the limits. Closing it closes l.
func (t *tracker) wrapListener(l *net.TCPListener) net.Listener {
	return limitListener{l, t.connections, t.pending}
}

// wrapHandler returns next with bodies that are tracked: the body of a request that may have
// one is a *requestBody.
func (t *tracker) wrapHandler(next http.Handler) http.Handler {
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

// connContext is an http.Server's ConnContext.
func (t *tracker) connContext(ctx context.Context, conn net.Conn) context.Context {
	return t.pending.connContext(ctx, conn)
}

// connState is an http.Server's ConnState.
func (t *tracker) connState(conn net.Conn, state http.ConnState) {
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

// beginShutdown is called when the server closes, before http.Server.Shutdown. It closes
// the pending connections, and from now on every new one. The bodies that have not arrived
// have shutdownReadGrace to arrive, and each write of an answer has shutdownWriteGrace. If
// ctx ends soon, both have at most half of the time until then. It may be called again.
func (t *tracker) beginShutdown(ctx context.Context) {
	// A pending connection has no request in flight, but Shutdown would wait for it for
	// seconds.
	t.pending.close()
	readBy := time.Now().Add(graceWithin(ctx, shutdownReadGrace))
	t.bodies.shutdown(func() time.Time { return readBy })
	grace := graceWithin(ctx, shutdownWriteGrace)
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

// unfinished is how many bodies have not arrived in full, and how many answers of HTTP/2 are
// not written in full.
func (t *tracker) unfinished() (bodies, responses int) {
	return t.bodies.len(), t.responses.len()
}
