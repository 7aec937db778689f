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
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
)

// pendingGrace is how long a connection may stay pending, however many there are.
const pendingGrace = 200 * time.Millisecond

// crowd is a tracker whose connections are pipes.
type crowd struct {
	*conns.Tracker
	displaced int
}

func newCrowd(maxPending int) *crowd {
	c := &crowd{}
	c.Tracker = conns.New(conns.Config{
		MaxPending: maxPending, PendingGrace: pendingGrace, Refused: func() {}, Displaced: func() { c.displaced++ }, Logger: slog.New(slog.DiscardHandler),
	})
	return c
}

// member is a connection of a crowd.
type member struct {
	client, conn net.Conn
	ctx          context.Context // of its requests
}

func (c *crowd) connect(t *testing.T) member {
	client, conn := net.Pipe()
	t.Cleanup(func() { _, _ = client.Close(), conn.Close() })
	return member{client, conn, c.ConnContext(t.Context(), conn)}
}

func (m member) isClosed() bool {
	_ = m.client.SetReadDeadline(time.Unix(1, 0)) // fails if the other end is closed
	_, err := m.client.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// request has a request come on m, and reports whether handle was called; otherwise the request
// must be aborted. It has no body if that is empty.
func (c *crowd) request(m member, method, body string, handle http.HandlerFunc) (handled bool) {
	defer func() {
		cause := recover()
		if cause != nil && cause != http.ErrAbortHandler {
			panic(cause)
		}
		if cause == nil && !handled {
			panic("the request was neither handled nor aborted")
		}
	}()
	r := httptest.NewRequestWithContext(m.ctx, method, "/", nil)
	if body != "" {
		r.Body = io.NopCloser(strings.NewReader(body))
	}
	c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handled = true
		handle(w, r)
	})).ServeHTTP(httptest.NewRecorder(), r)
	return handled
}

func ignore(http.ResponseWriter, *http.Request) {}

func TestWhichConnectionsMayBeDisplaced(t *testing.T) {
	asks := func(method, body string, handle func(*http.Request)) func(*crowd, member, func()) {
		return func(c *crowd, m member, another func()) {
			c.request(m, method, body, func(_ http.ResponseWriter, r *http.Request) {
				handle(r)
				another()
			})
		}
	}
	nothing := func(*http.Request) {}
	tests := map[string]struct {
		do        func(c *crowd, m member, another func())
		displaced bool
	}{
		"one that has sent nothing": {func(_ *crowd, _ member, another func()) { another() }, true},
		"one whose first body is being read": {
			asks("PUT", "body", func(r *http.Request) { _, _ = r.Body.Read(make([]byte, 2)) }), true},
		"one whose first body has been read": {
			asks("PUT", "body", func(r *http.Request) { _, _ = io.ReadAll(r.Body) }), false},
		"one whose first body may take long": {
			asks("PUT", "body", func(r *http.Request) { r.Body.(*conns.Body).Establish() }), false},
		"one whose first request has no body": {asks("PUT", "", nothing), false},
		"one whose first request is a GET":    {asks("GET", "body", nothing), false},
		"one whose first request is a HEAD":   {asks("HEAD", "body", nothing), false},
		"one that is closed": {func(c *crowd, m member, another func()) {
			c.ConnState(m.conn, http.StateClosed)
			another()
		}, false},
		"one that was answered before its body came": {func(c *crowd, m member, another func()) {
			c.request(m, "PUT", "body", ignore)
			another()
		}, false},
		"one whose second body is being read": {func(c *crowd, m member, another func()) {
			c.request(m, "GET", "", ignore)
			asks("PUT", "body", nothing)(c, m, another)
		}, false},
		"one whose server closes while its body comes": {func(c *crowd, m member, another func()) {
			asks("PUT", "body", func(*http.Request) { c.BeginShutdown(context.Background()) })(c, m, another)
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(1)
				m := c.connect(t)
				came := false
				test.do(c, m, func() {
					came = true
					began, want := time.Now(), time.Duration(0)
					if test.displaced {
						want = pendingGrace
					}
					c.MakeRoom()
					if took := time.Since(began); took != want {
						t.Errorf("another connection waits for %v, want %v", took, want)
					}
					if got := m.isClosed(); got != test.displaced || (c.displaced == 1) != test.displaced {
						t.Errorf("the connection is closed = %v, connections displaced = %d, want %v", got, c.displaced, test.displaced)
					}
				})
				if !came {
					t.Error("the request was not handled")
				}
			})
		})
	}
}

func TestTheOldestPendingConnectionIsDisplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(8)
		var pending []member
		for range 8 {
			pending = append(pending, c.connect(t))
			<-time.After(pendingGrace / 8)
		}
		for n, m := range pending {
			c.MakeRoom()
			if !m.isClosed() || c.displaced != n+1 {
				t.Errorf("connection %d is closed = %v, and %d are displaced, want the oldest one", n, m.isClosed(), c.displaced)
			}
			c.connect(t)
		}
	})
}

func TestAConnectionThatIsNoLongerPendingMakesRoom(t *testing.T) {
	for name, leave := range map[string]func(*crowd, member){
		"because it is closed":               func(c *crowd, m member) { c.ConnState(m.conn, http.StateClosed) },
		"because its request came":           func(c *crowd, m member) { c.request(m, "GET", "", ignore) },
		"because the server begins to close": func(c *crowd, _ member) { c.BeginShutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(2)
				_, m := c.connect(t), c.connect(t)
				began := time.Now()
				time.AfterFunc(pendingGrace/2, func() { leave(c, m) })
				c.MakeRoom()
				if took := time.Since(began); took != pendingGrace/2 || c.displaced != 0 {
					t.Errorf("another connection waits for %v, and %d are displaced, want %v and none", took, c.displaced, pendingGrace/2)
				}
			})
		})
	}
}

func TestARequestOnAnEvictedConnectionIsNotCarriedOut(t *testing.T) {
	for name, test := range map[string]struct{ method, body string }{
		"without a body": {"GET", ""},
		"with a body":    {"PUT", "body"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(1)
				asked := func(m member) bool { return c.request(m, test.method, test.body, ignore) }
				late := c.connect(t)
				c.MakeRoom() // returns when the grace of the evicted connection is over
				if asked(late) {
					t.Error("the request of a displaced connection is handled")
				}
				early := c.connect(t)
				if !asked(early) {
					t.Error("the request of a connection within the limit is not handled")
				}
				c.MakeRoom()
				if !asked(early) {
					t.Error("the second request of a connection is not handled")
				}
			})
		})
	}
}

// HTTP/2 has several first requests at once.
func TestEachFirstRequestOfAConnectionIsCarriedOut(t *testing.T) {
	c := newCrowd(1)
	m := c.connect(t)
	handled := 0
	c.request(m, "PUT", "body", func(_ http.ResponseWriter, r *http.Request) {
		handled++
		for _, method := range []string{"PUT", "GET"} {
			c.request(m, method, "body", func(http.ResponseWriter, *http.Request) { handled++ })
		}
		_, _ = io.ReadAll(r.Body)
	})
	if handled != 3 {
		t.Errorf("requests handled = %d, want 3", handled)
	}
}

// The listener may accept another connection while the server closes.
func TestConnectionsWithoutARequestAreClosedWhenTheServerCloses(t *testing.T) {
	c := newCrowd(4)
	early, asked := c.connect(t), c.connect(t)
	c.request(asked, "GET", "", ignore)
	c.BeginShutdown(t.Context())
	late := c.connect(t)
	if !early.isClosed() || !late.isClosed() || asked.isClosed() {
		t.Errorf("closed: the one before = %v, the one after = %v, the one with a request = %v, want true, true, false",
			early.isClosed(), late.isClosed(), asked.isClosed())
	}
	if c.request(early, "GET", "", ignore) || c.request(late, "GET", "", ignore) {
		t.Error("a request of a closed connection is handled")
	}
	if !c.request(asked, "GET", "", ignore) {
		t.Error("the request of another connection is not handled")
	}
}
