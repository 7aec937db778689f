package httpapi

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// transfers are the bodies of requests, or the answers of HTTP/2, that have been begun and
// are not through, as far as anybody knows. Safe for concurrent use; leave takes no lock for a
// connection that has none of them.
type transfers struct {
	// set is the deadline that bounds one of them.
	set func(deadlines, time.Time) error
	// lift says that one that is through has no deadline any more.
	lift bool
	// limit is a func() time.Time: until when they have time, from now on. None until the
	// server closes.
	limit atomic.Value
	// pending holds each *transfer by its socket.
	pending sync.Map
}

// transfer is one body, or one answer.
type transfer struct {
	among *transfers
	// socket is the connection, where that has one request at a time, or what one of
	// HTTP/2 has for itself.
	socket deadlines

	mu      sync.Mutex
	bounded bool // it was given a deadline
	over    bool // it gets no other
}

// deadlines is a net.Conn or an *http.ResponseController.
type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// add makes t that of r. The handler's end has to be told to it.
func (s *transfers) add(t *transfer, w http.ResponseWriter, r *http.Request) {
	t.among = s
	if from, known := newcomerOf(r.Context()); known && r.ProtoMajor == 1 {
		// What a handler leaves of a body, or of an answer in its buffer, is for net/http
		// after it, when the handler's controller must not be used any more.
		t.socket = from.conn
	} else {
		t.socket = http.NewResponseController(w)
	}
	s.pending.Store(t.socket, t)
}

// hurry is called when the server closes: limit bounds all that are pending, and those
// that are still to come.
func (s *transfers) hurry(limit func() time.Time) {
	s.limit.Store(limit)
	s.pending.Range(func(_, t any) bool {
		t.(*transfer).bound(time.Time{})
		return true
	})
}

func (s *transfers) hurried() bool { return s.limit.Load() != nil }

// leave is told of every connection that is done with a request, or is none of
// net/http's any more.
func (s *transfers) leave(conn net.Conn) {
	if t, pending := s.pending.Load(conn); pending {
		t.(*transfer).end()
	}
}

// bound gives t until at (zero: as long as any other), or until the limit, if that comes
// first. Where it fails t has as long as any other.
func (t *transfer) bound(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// Whoever sets a limit that is not seen here bounds t afterwards.
	if limit, hurried := t.among.limit.Load().(func() time.Time); hurried {
		if end := limit(); at.IsZero() || end.Before(at) {
			at = end
		}
	}
	if !at.IsZero() && !t.over {
		t.bounded = true
		_ = t.among.set(t.socket, at)
	}
}

// handled is called when the handler returns. A connection is done with the request later,
// and leaves then.
func (t *transfer) handled() {
	if _, own := t.socket.(*http.ResponseController); own {
		t.end()
	}
}

// through says whether t has ended.
func (t *transfer) through() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// end is called when t is through.
func (t *transfer) end() {
	t.among.pending.CompareAndDelete(t.socket, t)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.among.lift && t.bounded && !t.over {
		_ = t.among.set(t.socket, time.Time{})
	}
	t.over = true
}

// graceWithin is grace, or half of the time until ctx ends, if that is less: there has to
// be time for what follows.
func graceWithin(ctx context.Context, grace time.Duration) time.Duration {
	if deadline, bounded := ctx.Deadline(); bounded {
		return min(grace, time.Until(deadline)/2)
	}
	return grace
}
