package conns

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// transfers tracks the request bodies, or the answers of HTTP/2, that have begun and are
// not known to be finished, to set deadlines for them when the server closes. Safe for
// concurrent use; connDone takes no lock for a connection that has no active transfer.
type transfers struct {
	// setDeadline sets the deadline that limits a transfer.
	setDeadline func(deadlines, time.Time) error
	// clearWhenDone: the deadline is removed when a transfer is finished.
	clearWhenDone bool
	// shutdownLimit is a func() time.Time that gives the latest deadline from now on. It
	// is empty until the server closes.
	shutdownLimit atomic.Value
	// active holds each *transfer by its socket.
	active sync.Map
}

// transfer is one body, or one answer.
type transfer struct {
	owner *transfers
	// socket is the connection in HTTP/1, and the response controller of the stream in
	// HTTP/2.
	socket deadlines

	mu          sync.Mutex
	hasDeadline bool // a deadline was set
	finished    bool // no deadline is set any more
}

// deadlines is a net.Conn or an *http.ResponseController.
type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// add tracks t as the transfer of r. t.handlerDone must be called when the handler returns.
func (s *transfers) add(t *transfer, w http.ResponseWriter, r *http.Request) {
	t.owner = s
	if from, known := pendingConnOf(r.Context()); known && r.ProtoMajor == 1 {
		// What a handler leaves of a body, or of an answer in its buffer, net/http reads or
		// writes after it, when the handler's controller must not be used any more.
		t.socket = from.conn
	} else {
		t.socket = http.NewResponseController(w)
	}
	s.active.Store(t.socket, t)
}

// shutdown is called when the server closes: limit applies to all active transfers and
// to all later ones.
func (s *transfers) shutdown(limit func() time.Time) {
	s.shutdownLimit.Store(limit)
	s.active.Range(func(_, t any) bool {
		t.(*transfer).limitUntil(time.Time{})
		return true
	})
}

func (s *transfers) shuttingDown() bool { return s.shutdownLimit.Load() != nil }

// connDone is called with every connection that is done with a request, or that net/http
// no longer owns.
func (s *transfers) connDone(conn net.Conn) {
	if t, active := s.active.Load(conn); active {
		t.(*transfer).finish()
	}
}

func (s *transfers) len() (n int) {
	s.active.Range(func(any, any) bool {
		n++
		return true
	})
	return n
}

// limitUntil sets the deadline of t to at, or to the shutdown limit if that is earlier. A
// zero at leaves the deadline that net/http set, unless the server is closing. If setting
// it fails, t keeps the deadline that it has.
func (t *transfer) limitUntil(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// If shutdown stores its limit after this Load, it calls limitUntil once more.
	if limit, closing := t.owner.shutdownLimit.Load().(func() time.Time); closing {
		if end := limit(); at.IsZero() || end.Before(at) {
			at = end
		}
	}
	if !at.IsZero() && !t.finished {
		t.hasDeadline = true
		_ = t.owner.setDeadline(t.socket, at)
	}
}

// handlerDone is called when the handler returns. In HTTP/1 net/http still has to read or
// write the rest, and t is finished by connDone.
func (t *transfer) handlerDone() {
	if _, http2 := t.socket.(*http.ResponseController); http2 {
		t.finish()
	}
}

func (t *transfer) isFinished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// finish ends the tracking of t. It may be called again.
func (t *transfer) finish() {
	t.owner.active.CompareAndDelete(t.socket, t)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owner.clearWhenDone && t.hasDeadline && !t.finished {
		_ = t.owner.setDeadline(t.socket, time.Time{})
	}
	t.finished = true
}
