package httpapi_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestCloseEndsStreamsWithTheReason(t *testing.T) {
	s := start(t)
	var streams []*reader
	s.loseLeader()
	streams = append(streams, s.stream(t, "/nodes/sse")) // waits for a leader
	other := *s
	other.client = &http.Client{}
	other.useHTTP2()
	t.Cleanup(other.client.CloseIdleConnections)
	streams = append(streams, other.stream(t, "/nodes/sse"))
	s.lead()
	streams = append(streams, s.stream(t, "/nodes/sse"), other.stream(t, "/raft/metadata/sse"))
	for _, events := range streams {
		events.event(t)
	}
	closed := make(chan error)
	go func() { closed <- s.Close(context.Background()) }()
	for _, events := range streams {
		if got := events.farewell(t); got != "this instance is shutting down: connect again" {
			t.Errorf("last comment = %q, want that the instance is shutting down", got)
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := net.Dial("tcp", s.address); err == nil {
		t.Error("the server still listens")
	}
}

// The request may arrive just before Close.
func TestAStreamThatBeginsWhenTheServerClosesEndsAtOnce(t *testing.T) {
	s := prepare(t)
	s.closesWithin(t, patience)
	for _, path := range []string{"/nodes/sse", "/raft/metadata/sse"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(endlessRecorder{w}, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
		if body := w.Body.String(); w.Code != 200 || !strings.HasSuffix(body, ": this instance is shutting down: connect again\n\n") {
			t.Errorf("%s: stream = %d ending with %q, want 200 and that the instance is shutting down", path, w.Code, end([]byte(body)))
		}
	}
}

func TestCloseFinishesRequestsInFlight(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := start(t, func(c *httpapi.Config) {
		c.Nodes = fakeNodes{view: func(context.Context) (domain.View, error) {
			close(asked)
			<-answer
			return domain.View{}, nil
		}}
	})
	got := make(chan reply)
	go func() { got <- s.do(t, "GET", "/nodes", "") }()
	<-asked
	closed := s.beginClose(t)
	close(answer)
	if r := <-got; r.status != 200 || r.body != "{}" {
		t.Errorf("answer = %d %s, want 200 {}", r.status, r.body)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestCloseBreaksOffRequestsThatTakeTooLong(t *testing.T) {
	asked := make(chan struct{})
	returned := make(chan struct{})
	s := start(t, func(c *httpapi.Config) {
		c.Nodes = fakeNodes{view: func(ctx context.Context) (domain.View, error) {
			close(asked)
			<-ctx.Done()
			close(returned)
			return domain.View{}, ctx.Err()
		}}
	})
	s.dial(t, "GET /nodes HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close = %v, want %v", err, context.Canceled)
	}
	select {
	case <-returned:
	default:
		t.Error("a handler still runs")
	}
	// A connection may have taken a request from its socket just before it was closed.
	defer func() {
		if reason := recover(); reason != http.ErrAbortHandler {
			t.Errorf("a request after Close panicked with %v, want %v", reason, http.ErrAbortHandler)
		}
	}()
	s.handle(t, "GET", "/livez")
}

func TestCloseDoesNotWaitForConnectionsWithoutARequest(t *testing.T) {
	s := start(t)
	s.dial(t, "")
	idle := s.dial(t, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, err := idle.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Close took %v, want at most 3s", took)
	}
}

func TestCloseDoesNotWaitForAReaderThatTakesNothing(t *testing.T) {
	t.Run("with time left", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		sent := s.stickStream(t)
		began := time.Now()
		other := make(chan error)
		go func() { other <- s.Close(context.Background()) }()
		if err := errors.Join(s.Close(context.Background()), <-other); err != nil {
			t.Errorf("two concurrent calls of Close: %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Close took %v, want at most 5s", took)
		}
		if s.metric(t, "nodesmetadata_http_stream_cut_off_total", "nodes") != 1 {
			t.Errorf("no stream was cut off after %v events, want the stuck one cut off", sent)
		}
	})
	t.Run("with no time left", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		s.stickStream(t)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Close(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Close = %v, want %v", err, context.Canceled)
		}
		if s.metric(t, "nodesmetadata_http_stream_cut_off_total", "nodes") != 0 {
			t.Error("a stream was cut off, want it closed without the time for its end")
		}
	})
}

// stickStream opens a stream whose client reads nothing, and returns the number of events that
// were sent when the socket is full.
func (s *service) stickStream(t *testing.T) (events float64) {
	t.Helper()
	s.fillWithLarge(t, 1500)
	s.dial(t, "GET /nodes/sse HTTP/1.1\r\nHost: h\r\n\r\n")
	sent := func() float64 { return s.metric(t, "nodesmetadata_http_stream_events_total", "nodes") }
	last, still := 0.0, 0
	eventually(t, "the stream is stuck", func() bool { // three times, because the machine may be slow
		<-time.After(200 * time.Millisecond)
		now := sent()
		if now == 0 || now != last {
			still = 0
		} else {
			still++
		}
		last = now
		return still == 3
	})
	return last
}

func TestCloseWithoutOpen(t *testing.T) {
	s := prepare(t)
	if s.Addr() != nil {
		t.Error("Addr before Open is not nil")
	}
	for range 2 {
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := s.Open(context.Background()); err == nil {
		t.Error("Open after Close = nil, want an error")
	}
}

func TestOpenReportsWhyItFails(t *testing.T) {
	first := start(t)
	if err := first.Open(context.Background()); err == nil {
		t.Error("second Open = nil, want an error")
	}
	second := prepare(t, func(c *httpapi.Config) { c.BindAddress = first.address })
	// The error does not name the application API: the caller of Open does.
	if err := second.Open(context.Background()); err == nil || !strings.HasPrefix(err.Error(), "httpapi: open: listen tcp "+first.address) {
		t.Errorf("Open on a taken address = %v, want an error that names it", err)
	}
	if err := second.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
}
