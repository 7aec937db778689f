package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// arrivalGrace is how long the rest of a request is waited for once the server
// closes: enough for one that is on its way, and little beside the time that there is
// to stop. Nobody loses anything with one that does not come: nothing was done for it.
const arrivalGrace = time.Second

// arrivals are the requests whose bodies have not arrived whole, as far as anybody
// knows. Safe for concurrent use.
type arrivals struct {
	mu sync.Mutex
	// closing is until when they are waited for; zero until the server closes.
	closing time.Time
	// pending are by connection, where that has one request at a time; those of
	// HTTP/2 are by themselves.
	pending map[any]*arrival
	count   atomic.Int64 // of pending
}

func newArrivals() *arrivals { return &arrivals{pending: map[any]*arrival{}} }

// arrival is the body of a request. Read is for one goroutine.
type arrival struct {
	io.ReadCloser
	among       *arrivals
	key         any
	setDeadline func(time.Time) error

	mu      sync.Mutex
	closing time.Time // as that of arrivals
	bounded bool      // await was called
	over    bool      // nothing more of it is waited for
}

// expect gives the body of r in place of the one that it has. The handler's end has to
// be told to it.
func (s *arrivals) expect(w http.ResponseWriter, r *http.Request) *arrival {
	a := &arrival{ReadCloser: r.Body, among: s}
	if from, known := newcomerOf(r.Context()); known && r.ProtoMajor == 1 {
		// What a handler leaves of the body net/http reads after it, when the
		// handler's controller must not be used any more.
		a.key, a.setDeadline = from.conn, from.conn.SetReadDeadline
	} else {
		a.key, a.setDeadline = a, http.NewResponseController(w).SetReadDeadline
	}
	s.mu.Lock()
	s.pending[a.key] = a
	s.count.Store(int64(len(s.pending)))
	closing := s.closing
	s.mu.Unlock()
	if !closing.IsZero() {
		a.hurry(closing)
	}
	return a
}

// hurry has all that arrive from now on be there by then.
func (s *arrivals) hurry(closing time.Time) {
	s.mu.Lock()
	s.closing = closing
	pending := slices.Collect(maps.Values(s.pending))
	s.mu.Unlock()
	for _, a := range pending {
		a.hurry(closing)
	}
}

// leave is told of every connection that is done with a request, or is none of
// net/http's any more.
func (s *arrivals) leave(conn net.Conn) {
	if s.count.Load() == 0 {
		return
	}
	s.mu.Lock()
	a, pending := s.pending[conn]
	s.mu.Unlock()
	if pending {
		a.end()
	}
}

// Read implements io.Reader.
func (a *arrival) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	switch {
	case err == io.EOF:
		a.end()
	case errors.Is(err, os.ErrDeadlineExceeded) && a.isHurried():
		err = fmt.Errorf("%w: the rest of the request did not come in time", ports.ErrClosed)
	}
	return n, err
}

// await sets until when the body is waited for. Where that fails it has as long as
// any other.
func (a *arrival) await(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return
	}
	if !a.closing.IsZero() && a.closing.Before(at) {
		at = a.closing
	}
	a.bounded = true
	_ = a.setDeadline(at)
}

func (a *arrival) hurry(closing time.Time) {
	a.mu.Lock()
	a.closing = closing
	a.mu.Unlock()
	a.await(closing)
}

func (a *arrival) isHurried() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.closing.IsZero()
}

// handled is called when the handler returns.
func (a *arrival) handled() {
	if a.key == any(a) {
		a.end()
	}
}

// end is called when nothing more of the body is waited for. From then on net/http
// reads only to find out whether the sender has gone, and would take the end of a time
// for that.
func (a *arrival) end() {
	a.among.mu.Lock()
	if a.among.pending[a.key] == a {
		delete(a.among.pending, a.key)
		a.among.count.Store(int64(len(a.among.pending)))
	}
	a.among.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over && a.bounded {
		_ = a.setDeadline(time.Time{})
	}
	a.over = true
}

// graceWithin is grace, or half of the time until ctx ends, if that is less: there has to
// be time for what follows.
func graceWithin(ctx context.Context, grace time.Duration) time.Duration {
	if deadline, bounded := ctx.Deadline(); bounded {
		return min(grace, time.Until(deadline)/2)
	}
	return grace
}
