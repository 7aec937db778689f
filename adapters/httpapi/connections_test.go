package httpapi_test

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
)

func fewConnections(c *httpapi.Config) { c.MaxConnections = 4 }

// answered sends a request on a new connection, and reports whether it is answered or the
// connection is closed at once.
func (s *service) answered(t *testing.T) (net.Conn, bool) {
	t.Helper()
	conn := s.dial(t, "")
	_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
	n, err := conn.Read(make([]byte, 1024))
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Fatal("the request is neither answered nor refused")
	}
	return conn, n > 0
}

func TestAConnectionOverTheLimitIsRefusedAtOnce(t *testing.T) {
	const refused = "nodesmetadata_http_connections_refused_total"
	s := start(t, fewConnections)
	stream := s.stream(t, "/nodes/sse")
	stream.event(t)
	var held []net.Conn
	for n := range 3 {
		conn, ok := s.answered(t)
		if !ok {
			t.Fatalf("with a stream and %d connections open, another one was refused", n)
		}
		held = append(held, conn)
	}
	for range 2 {
		if _, ok := s.answered(t); ok {
			t.Error("a connection over the limit is answered")
		}
	}
	if n := s.metric(t, refused); n != 2 {
		t.Errorf("refused connections = %v, want 2", n)
	}
	_ = held[0].Close()
	eventually(t, "a closed connection makes room for another", func() bool {
		conn, ok := s.answered(t)
		_ = conn.Close()
		return ok
	})
	eventually(t, "the log says that there is room again", func() bool { return strings.Contains(s.log.String(), "connections are taken again") })
	if log := s.log.String(); strings.Count(log, "level=") != 2 || strings.Count(log, "connections are refused") != 1 {
		t.Errorf("log = %s, want the refusal and its end once each", log)
	}
	stream.cancel()
	eventually(t, "an ended stream makes room for a connection", func() bool {
		first, ok := s.answered(t)
		second, both := s.answered(t)
		_, _ = first.Close(), second.Close()
		return ok && both
	})
}

// A connection without a request must not take the place of one with a request.
func TestIdleConnectionsLeaveRoomForRequests(t *testing.T) {
	s := start(t, fewConnections)
	for range 12 {
		s.dial(t, "")
	}
	eventually(t, "a request is answered", func() bool {
		conn, ok := s.answered(t)
		_ = conn.Close()
		return ok
	})
}
