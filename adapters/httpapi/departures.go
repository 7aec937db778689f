package httpapi

import (
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// shortAnswer is what net/http and a socket take of any answer, also where the client
	// takes nothing.
	shortAnswer = 4 << 10

	// departureGrace is how long the socket of a long answer has for each write once the
	// server closes: for turnBytes of a list, which are few to anybody who reads, or for a
	// piece of a backup.
	departureGrace = 2 * time.Second
)

// departures are the long answers that have been begun and not been taken whole, as far
// as anybody knows. Safe for concurrent use.
type departures struct {
	mu sync.Mutex
	// grace is that of each write; zero until the server closes.
	grace time.Duration
	// pending are by connection, where that has one request at a time; those of
	// HTTP/2 are by themselves.
	pending map[any]*departure
	count   atomic.Int64 // of pending
}

func newDepartures() *departures { return &departures{pending: map[any]*departure{}} }

// departure is an answer whose client must not hold up the end of the server: from then
// on it has the grace for what is being written, and for each write that follows.
type departure struct {
	http.ResponseWriter
	among       *departures
	key         any
	setDeadline func(time.Time) error

	mu    sync.Mutex
	grace time.Duration // as that of departures
	over  bool
}

// begin gives the writer of an answer to r in place of w. The handler's end has to be told
// to it.
func (s *departures) begin(w http.ResponseWriter, r *http.Request) *departure {
	d := &departure{ResponseWriter: w, among: s}
	if from, known := newcomerOf(r.Context()); known && r.ProtoMajor == 1 {
		// What is left in its buffer net/http writes after the handler, when the
		// handler's controller must not be used any more.
		d.key, d.setDeadline = from.conn, from.conn.SetWriteDeadline
	} else {
		d.key, d.setDeadline = d, http.NewResponseController(w).SetWriteDeadline
	}
	s.mu.Lock()
	s.pending[d.key] = d
	s.count.Store(int64(len(s.pending)))
	d.grace = s.grace
	s.mu.Unlock()
	return d
}

// hurry is called when the server closes.
func (s *departures) hurry(grace time.Duration) {
	s.mu.Lock()
	s.grace = grace
	pending := slices.Collect(maps.Values(s.pending))
	s.mu.Unlock()
	for _, d := range pending {
		d.mu.Lock()
		d.grace = grace
		d.mu.Unlock()
		d.extend()
	}
}

// leave is told of every connection that is done with a request, or is none of
// net/http's any more.
func (s *departures) leave(conn net.Conn) {
	if s.count.Load() == 0 {
		return
	}
	s.mu.Lock()
	d, pending := s.pending[conn]
	s.mu.Unlock()
	if pending {
		d.end()
	}
}

// Write implements io.Writer.
func (d *departure) Write(b []byte) (int, error) {
	d.extend()
	return d.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (d *departure) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// extend gives the client time for what is written next, if it is to hurry.
func (d *departure) extend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.grace != 0 && !d.over {
		_ = d.setDeadline(time.Now().Add(d.grace))
	}
}

// handled is called when the handler returns.
func (d *departure) handled() {
	if d.key == any(d) {
		d.end()
	}
}

func (d *departure) end() {
	d.among.mu.Lock()
	if d.among.pending[d.key] == d {
		delete(d.among.pending, d.key)
		d.among.count.Store(int64(len(d.among.pending)))
	}
	d.among.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
}
