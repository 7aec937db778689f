package conns_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
)

// none says that a deadline was removed; it is no time from now.
const none = -time.Hour

// deadlines records for how long each deadline was set.
type deadlines struct{ read, write []time.Duration }

// SetReadDeadline implements a method of net.Conn, for which http.ResponseController looks
// too.
func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.read = append(d.read, untilDeadline(at))
	return nil
}

// SetWriteDeadline is SetReadDeadline for writes.
func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.write = append(d.write, untilDeadline(at))
	return nil
}

func untilDeadline(at time.Time) time.Duration {
	if at.IsZero() {
		return none
	}
	return time.Until(at)
}

// mustBeSet checks the deadlines that were set since the last call.
func (d *deadlines) mustBeSet(t *testing.T, when string, read, write []time.Duration) {
	t.Helper()
	if !slices.Equal(d.read, read) || !slices.Equal(d.write, write) {
		t.Errorf("%s: read deadlines set = %v, write deadlines = %v, want %v and %v", when, d.read, d.write, read, write)
	}
	*d = deadlines{}
}

func in(each ...time.Duration) []time.Duration { return each }

// socket is a connection, or a stream of HTTP/2, whose deadlines are recorded.
type socket struct {
	deadlines
	net.Conn
	*httptest.ResponseRecorder
}

func newSocket() *socket { return &socket{ResponseRecorder: httptest.NewRecorder()} }

// SetReadDeadline implements net.Conn.
func (s *socket) SetReadDeadline(at time.Time) error { return s.deadlines.SetReadDeadline(at) }

// SetWriteDeadline implements net.Conn.
func (s *socket) SetWriteDeadline(at time.Time) error { return s.deadlines.SetWriteDeadline(at) }

// Write implements http.ResponseWriter.
func (s *socket) Write(b []byte) (int, error) { return s.ResponseRecorder.Write(b) }

// Close implements net.Conn.
func (s *socket) Close() error { return nil }

var errLate = errors.New("late")

func newTracker() *conns.Tracker {
	return conns.New(conns.Config{
		MaxPending: 100, PendingGrace: pendingGrace, Refused: func() {}, Displaced: func() {}, LateBody: errLate, Logger: slog.New(slog.DiscardHandler),
	})
}

// requestOn returns a request with a body, and the socket with its deadlines: conn, or in HTTP/2
// one of its own.
func requestOn(tracker *conns.Tracker, conn *socket, major int, body io.Reader) (*socket, *http.Request) {
	r := httptest.NewRequestWithContext(tracker.ConnContext(context.Background(), conn), "PUT", "/", body)
	r.ProtoMajor = major
	if major == 1 {
		return conn, r
	}
	return newSocket(), r
}

func mustBeUnfinished(t *testing.T, tracker *conns.Tracker, bodies, responses int) {
	t.Helper()
	if b, r := tracker.Unfinished(); b != bodies || r != responses {
		t.Errorf("unfinished bodies = %d, answers = %d, want %d and %d", b, r, bodies, responses)
	}
}

func TestTheDeadlinesOfABody(t *testing.T) {
	const body = "0123456789"
	read := func(t *testing.T, b *conns.Body, n int64) {
		t.Helper()
		if _, err := io.CopyN(io.Discard, b, n); err != nil {
			t.Error(err)
		}
	}
	tests := map[string]func(t *testing.T, tracker *conns.Tracker, s *socket, b *conns.Body){
		"that arrives while the server is open": func(t *testing.T, _ *conns.Tracker, s *socket, b *conns.Body) {
			_, _ = io.Copy(io.Discard, b)
			s.mustBeSet(t, "at its end", nil, nil)
		},
		"that is given one for a part of it": func(t *testing.T, _ *conns.Tracker, s *socket, b *conns.Body) {
			b.LimitUntil(time.Now().Add(time.Minute))
			read(t, b, 5)
			b.LimitUntil(time.Now().Add(time.Hour))
			s.mustBeSet(t, "before its end", in(time.Minute, time.Hour), nil)
			_, _ = io.Copy(io.Discard, b)
			s.mustBeSet(t, "at its end", in(none), nil)
			b.LimitUntil(time.Now().Add(time.Minute))
			s.mustBeSet(t, "behind its end", nil, nil)
		},
		"whose server closes": func(t *testing.T, tracker *conns.Tracker, s *socket, b *conns.Body) {
			tracker.BeginShutdown(t.Context())
			s.mustBeSet(t, "at once", in(conns.ReadGrace), nil)
			<-time.After(conns.ReadGrace / 2)
			b.LimitUntil(time.Now().Add(time.Minute))
			b.LimitUntil(time.Now().Add(conns.ReadGrace / 4))
			s.mustBeSet(t, "for a part of it", in(conns.ReadGrace/2, conns.ReadGrace/4), nil)
			_, _ = io.Copy(io.Discard, b)
			s.mustBeSet(t, "at its end", in(none), nil)
			tracker.BeginShutdown(t.Context())
			s.mustBeSet(t, "behind its end", nil, nil)
		},
	}
	for name, do := range tests {
		for version, major := range map[string]int{"HTTP/1.1": 1, "HTTP/2": 2} {
			t.Run(name+" in "+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tracker, conn := newTracker(), newSocket()
					s, r := requestOn(tracker, conn, major, strings.NewReader(body))
					content := r.Body
					tracker.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						mustBeUnfinished(t, tracker, 1, 0)
						do(t, tracker, s, r.Body.(*conns.Body))
						mustBeUnfinished(t, tracker, 0, 0)
					})).ServeHTTP(s, r)
					s.mustBeSet(t, "after the handler", nil, nil)
					conn.mustBeSet(t, "of the connection", nil, nil)
					if r.Body != content {
						t.Error("the body of net/http's own request is replaced")
					}
				})
			})
		}
	}
}

// In HTTP/1 net/http reads on after the handler, until it is done with the connection.
func TestABodyThatItsHandlerLeavesUnread(t *testing.T) {
	for name, test := range map[string]struct {
		major int
		state http.ConnState
		reads bool // net/http, after the handler
	}{
		"in HTTP/1, on a connection that is asked again":     {1, http.StateIdle, true},
		"in HTTP/1, on a connection that is closed":          {1, http.StateClosed, true},
		"in HTTP/1, on a connection that is another owner's": {1, http.StateHijacked, true},
		"in HTTP/2": {2, http.StateIdle, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracker, conn := newTracker(), newSocket()
				s, r := requestOn(tracker, conn, test.major, strings.NewReader("body"))
				tracker.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					r.Body.(*conns.Body).LimitUntil(time.Now().Add(time.Minute))
				})).ServeHTTP(s, r)
				if tracker.ConnState(conn, http.StateActive); test.reads {
					mustBeUnfinished(t, tracker, 1, 0)
					s.mustBeSet(t, "after the handler", in(time.Minute), nil)
					tracker.BeginShutdown(t.Context())
					s.mustBeSet(t, "once the server closes", in(conns.ReadGrace), nil)
					tracker.ConnState(conn, test.state)
					s.mustBeSet(t, "after the request", in(none), nil)
				} else {
					s.mustBeSet(t, "after the handler", in(time.Minute, none), nil)
				}
				mustBeUnfinished(t, tracker, 0, 0)
			})
		})
	}
}

func TestABodyThatBeginsWhileTheServerClosesHasTheSameEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker()
		asked := tracker.ConnContext(t.Context(), newSocket())
		tracker.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).
			ServeHTTP(newSocket(), httptest.NewRequestWithContext(asked, "GET", "/", nil))
		tracker.BeginShutdown(t.Context())
		<-time.After(conns.ReadGrace / 4)
		s, r := newSocket(), httptest.NewRequestWithContext(asked, "PUT", "/", strings.NewReader("body"))
		r.ProtoMajor = 2
		tracker.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			s.mustBeSet(t, "at its beginning", in(conns.ReadGrace*3/4), nil)
		})).ServeHTTP(s, r)
	})
}

// lateBody is a body whose rest does not come.
type lateBody struct{ closed bool }

// Read implements io.Reader.
func (*lateBody) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// Close implements io.Closer.
func (l *lateBody) Close() error {
	l.closed = true
	return nil
}

func TestABodyThatComesTooLateSaysWhetherTheServerCloses(t *testing.T) {
	tracker, content := newTracker(), &lateBody{}
	s, r := requestOn(tracker, newSocket(), 1, content)
	tracker.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := r.Body.Read(nil); err != os.ErrDeadlineExceeded {
			t.Errorf("Read while the server is open = %v, want %v", err, os.ErrDeadlineExceeded)
		}
		tracker.BeginShutdown(t.Context())
		if _, err := r.Body.Read(nil); err != errLate {
			t.Errorf("Read while the server closes = %v, want %v", err, errLate)
		}
		if err := r.Body.Close(); err != nil || !content.closed {
			t.Errorf("Close = %v, the body is closed = %v, want success", err, content.closed)
		}
	})).ServeHTTP(s, r)
}

func TestARequestWithoutABodyIsGivenNone(t *testing.T) {
	tracker := newTracker()
	s, r := requestOn(tracker, newSocket(), 1, http.NoBody)
	tracker.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			t.Errorf("body = %v, want http.NoBody", r.Body)
		}
		mustBeUnfinished(t, tracker, 0, 0)
	})).ServeHTTP(s, r)
}

func TestTheDeadlinesOfAnAnswerInHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker, conn := newTracker(), newSocket()
		write := func(w io.Writer) { _, _ = io.WriteString(w, "answer") }
		s, r := requestOn(tracker, conn, 2, nil)
		other, rOfOther := requestOn(tracker, conn, 2, nil)
		w, done := tracker.TrackResponse(s, r)
		_, otherDone := tracker.TrackResponse(other, rOfOther)
		write(w)
		s.mustBeSet(t, "while the server is open", nil, nil)
		mustBeUnfinished(t, tracker, 0, 2)

		tracker.BeginShutdown(t.Context())
		s.mustBeSet(t, "once the server closes", nil, in(conns.WriteGrace))
		other.mustBeSet(t, "once the server closes", nil, in(conns.WriteGrace))
		<-time.After(conns.WriteGrace / 2)
		write(w)
		s.mustBeSet(t, "for a later write", nil, in(conns.WriteGrace))

		if done(); !s.Flushed {
			t.Error("what was written is not flushed")
		}
		if otherDone(); other.Flushed {
			t.Error("an answer of which nothing was written is flushed")
		}
		mustBeUnfinished(t, tracker, 0, 0)
		tracker.BeginShutdown(t.Context())
		s.mustBeSet(t, "after the answer", nil, nil)
		conn.mustBeSet(t, "of the connection", nil, nil)

		late, r := requestOn(tracker, conn, 2, nil)
		w, done = tracker.TrackResponse(late, r)
		write(w)
		late.mustBeSet(t, "for an answer that begins later", nil, in(conns.WriteGrace))
		done()
	})
}

func TestAnAnswerInHTTP1IsNotTracked(t *testing.T) {
	tracker := newTracker()
	s, r := requestOn(tracker, newSocket(), 1, nil)
	w, done := tracker.TrackResponse(s, r)
	if w != s {
		t.Errorf("writer = %v, want the given one", w)
	}
	mustBeUnfinished(t, tracker, 0, 0)
	done()
}

// What follows needs time too.
func TestTheGraceIsAtMostHalfOfTheTimeToClose(t *testing.T) {
	for name, test := range map[string]struct{ left, read, write time.Duration }{
		"enough":              {time.Minute, conns.ReadGrace, conns.WriteGrace},
		"too little to write": {3 * time.Second, conns.ReadGrace, 3 * time.Second / 2},
		"too little":          {time.Second, time.Second / 2, time.Second / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracker := newTracker()
				s, r := requestOn(tracker, newSocket(), 2, strings.NewReader("body"))
				tracker.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, done := tracker.TrackResponse(w, r)
					defer done()
					ctx, cancel := context.WithTimeout(t.Context(), test.left)
					defer cancel()
					tracker.BeginShutdown(ctx)
					s.mustBeSet(t, "once the server closes", in(test.read), in(test.write))
				})).ServeHTTP(s, r)
			})
		})
	}
}
