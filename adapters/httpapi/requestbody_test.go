package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// stopsWithin is less than the time in which a body must arrive, and more than the time that is
// left for it once the server closes.
const stopsWithin = 5 * time.Second

func TestCloseDoesNotWaitForBodiesThatDoNotArrive(t *testing.T) {
	const half = "\r\nHost: h\r\nContent-Length: 50\r\n\r\n{"
	tests := map[string]struct{ send, status, code string }{
		"half a body":                        {"PUT /nodes HTTP/1.1" + half, "503", "shutting_down"},
		"half a body of a later request":     {"GET /livez HTTP/1.1\r\nHost: h\r\n\r\nPUT /nodes HTTP/1.1" + half, "503", "shutting_down"},
		"half a chunk":                       {"PUT /nodes/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "503", "shutting_down"},
		"a body after 100-continue":          {"PUT /nodes/a HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n", "503", "shutting_down"},
		"half a backup":                      {"POST /raft/restore HTTP/1.1" + half, "503", "shutting_down"},
		"half a body of a GET":               {"GET /nodes HTTP/1.1" + half, "200", "{}"},
		"half a body of an unknown method":   {"PATCH /nodes HTTP/1.1" + half, "405", "method_not_allowed"},
		"half a body for an unknown path":    {"PUT /nope HTTP/1.1" + half, "404", "not_found"},
		"half a body of an unsupported type": {"PUT /nodes HTTP/1.1\r\nContent-Type: text/plain" + half, "415", "unsupported_media_type"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			conn := s.dial(t, test.send)
			eventually(t, "the last request is handled", func() bool { return s.OpenBodies() == 1 })
			s.closesWithin(t, stopsWithin)
			said, err := io.ReadAll(conn)
			last := string(said)[max(0, strings.LastIndex(string(said), "HTTP/1.1 ")):]
			if !strings.HasPrefix(last, "HTTP/1.1 "+test.status) || !strings.Contains(last, test.code) || !strings.Contains(last, "Connection: close\r\n") {
				t.Errorf("answer = %q, %v, want %s %s and the end of the connection", last, err, test.status, test.code)
			}
		})
	}
}

func TestCloseDoesNotWaitForABodyOfHTTP2ThatDoesNotArrive(t *testing.T) {
	s := start(t)
	s.useHTTP2()
	reader, writer := io.Pipe()
	defer writer.Close()
	answered := make(chan reply, 1)
	go func() { answered <- s.send(t, "PUT", "/nodes", reader) }()
	eventually(t, "the request is handled", func() bool { return s.OpenBodies() == 1 })
	s.closesWithin(t, stopsWithin)
	select {
	case got := <-answered:
		if code, _ := got.problem(t); got.status != 503 || code != "shutting_down" {
			t.Errorf("answer = %d %s, want 503 shutting_down", got.status, got.body)
		}
	case <-time.After(patience):
		t.Fatal("the request was not answered")
	}
}

// A body that is on its way is accepted.
func TestCloseTakesABodyThatArrives(t *testing.T) {
	s := start(t)
	const body = `{"id":"a","address":"10.0.0.1:1"}`
	conn := s.dial(t, "PUT /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 33\r\n\r\n"+body[:5])
	eventually(t, "the request is handled", func() bool { return s.OpenBodies() == 1 })
	closed := s.beginClose(t)
	if _, err := io.WriteString(conn, body[5:]); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != 201 {
		t.Errorf("answer = %+v, %v, want 201", response, err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

// slowNodes implements ports.Nodes with a Register that takes longer than the server waits
// for the rest of a request when it closes, unless its context ends before.
type slowNodes struct {
	ports.Nodes
	asked chan struct{}
}

func (n slowNodes) Register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (domain.Change, error) {
	n.asked <- struct{}{}
	select {
	case <-time.After(conns.ReadGrace * 3 / 2):
		return n.Nodes.Register(ctx, spec, condition)
	case <-ctx.Done():
		return domain.Change{}, ctx.Err()
	}
}

// The time limit for bodies that have not arrived must not affect complete requests.
func TestCloseFinishesRequestsThatHaveArrived(t *testing.T) {
	for name, useHTTP2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{})
			s := start(t, func(c *httpapi.Config) { c.Nodes = slowNodes{c.Nodes, asked} })
			if useHTTP2 {
				s.useHTTP2()
			}
			answered := make(chan reply, 1)
			go func() { answered <- s.do(t, "PUT", "/nodes", `{"id":"a","address":"10.0.0.1:1"}`) }()
			<-asked
			if arriving := s.OpenBodies(); arriving != 0 {
				t.Errorf("requests with incomplete bodies = %d, want none", arriving)
			}
			if err := s.Close(context.Background()); err != nil {
				t.Errorf("Close: %v", err)
			}
			if got := <-answered; got.status != 201 {
				t.Errorf("answer = %d %s, want 201", got.status, got.body)
			}
		})
	}
}

// Whatever a connection has sent, nothing of it is left when it is closed.
func TestAClosedConnectionLeavesNothingBehind(t *testing.T) {
	s := start(t)
	for _, text := range []string{
		"PUT /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{",
		"PUT /nope HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{",
		"GET /nodes/sse HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{",
		"GET /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
	} {
		conn := s.dial(t, text)
		if strings.HasPrefix(text, "GET") {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the body of the answered request is no longer waited for", func() bool { return s.OpenBodies() == 0 })
		} else {
			eventually(t, "the request is handled", func() bool { return s.OpenBodies() == 1 })
		}
		conn.Close()
		eventually(t, "no body is waited for", func() bool { return s.OpenBodies() == 0 })
	}
}
