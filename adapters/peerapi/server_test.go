package peerapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
)

// ask sends raw bytes on the lane and gives the answer.
func ask(t *testing.T, address, raw string) (*http.Response, string) {
	t.Helper()
	conn := dial(t, address)
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := demux.Dial(within(t, 5*time.Second), address, peerapi.Lane)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestTheAnswerOnTheWire(t *testing.T) {
	i := start(t, "127.0.0.1:0")
	response, body := ask(t, i.address(), "GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
	want := `{"application_address":"10.0.0.1:8080","raft_id":"n1","cluster_id":"6a1f","version":"v1.2.3","applied_index":4711,"format":2,"process":"P7Q2"}`
	if response.StatusCode != http.StatusOK || body != want {
		t.Errorf("answer = %d %s, want 200 %s", response.StatusCode, body, want)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type = %q, want application/json", got)
	}
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	i := start(t, "127.0.0.1:0")
	for path, want := range map[string]int{"/metadata": 200, "/read-index": 503, "/nodes": 404} {
		conn := dial(t, i.address())
		if _, err := io.WriteString(conn, "HEAD "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(said), fmt.Sprintf("HTTP/1.1 %d ", want)) || !strings.HasSuffix(string(said), "\r\n\r\n") {
			t.Errorf("HEAD %s = %q, %v, want %d without a body", path, said, err, want)
		}
	}
}

func TestEverythingElseIsAProblem(t *testing.T) {
	tests := map[string]struct {
		request string
		status  int
		code    string
		allow   string
	}{
		"another path":            {"GET /nodes HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found", ""},
		"the root":                {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found", ""},
		"a path below":            {"GET /metadata/ HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found", ""},
		"a path below the index":  {"GET /read-index/7 HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found", ""},
		"a write of the index":    {"POST /read-index HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405, "method_not_allowed", "GET, HEAD"},
		"an index from no leader": {"GET /read-index HTTP/1.1\r\nHost: x\r\n\r\n", 503, "not_leader", ""},
		"a write":                 {"PUT /metadata HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405, "method_not_allowed", "GET, HEAD"},
		"a method of no service":  {"BREW /metadata HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed", "GET, HEAD"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i := start(t, "127.0.0.1:0")
			response, body := ask(t, i.address(), test.request)
			if response.StatusCode != test.status || response.Header.Get("Allow") != test.allow {
				t.Errorf("status = %d, Allow = %q, want %d, %q", response.StatusCode, response.Header.Get("Allow"), test.status, test.allow)
			}
			if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type = %q, want application/problem+json", got)
			}
			// What follows such a request is not read; a leader may be found soon.
			if want := test.status != http.StatusServiceUnavailable; response.Close != want {
				t.Errorf("connection closed = %v, want %v", response.Close, want)
			}
			var problem struct {
				Type, Title, Detail, Code, Error string
				Status                           int
			}
			if err := json.Unmarshal([]byte(body), &problem, json.MatchCaseInsensitiveNames(true)); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			if problem.Status != test.status || problem.Code != test.code || problem.Type == "" ||
				problem.Title == "" || problem.Detail == "" || problem.Error != problem.Detail {
				t.Errorf("problem document = %s, want %d %s with all members", body, test.status, test.code)
			}
		})
	}
}

// Each of them must be cut off by the server, well before the deadline of the
// test's own connection, and must not keep others from an answer. Four that are
// silent would for eight seconds, if each were waited for.
func TestStrangersAreCutOff(t *testing.T) {
	tests := map[string]struct {
		send  string
		bound time.Duration
	}{
		"silence after the lane's byte": {"", 4 * time.Second},
		"half a header":                 {"GET /metadata HTTP/1.1\r\nHos", 4 * time.Second},
		"a body that never comes":       {"PUT /metadata HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", 6 * time.Second},
		"garbage":                       {"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 2 * time.Second},
		"a header without end":          {"GET /metadata HTTP/1.1\r\nX: " + strings.Repeat("x", 64<<10), 2 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, c := start(t, "127.0.0.1:0"), client(t)
			var conns []net.Conn
			for range 4 {
				conns = append(conns, dial(t, i.address()))
			}
			began := time.Now()
			for _, conn := range conns {
				// The server may close before it has read everything.
				_, _ = io.WriteString(conn, test.send)
			}
			answered := make(chan error, 1)
			go func() {
				_, err := c.Identify(within(t, 5*time.Second), i.address())
				answered <- err
			}()
			for _, conn := range conns {
				_, err := io.Copy(io.Discard, conn)
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					t.Fatal("the connection was never closed")
				}
			}
			if took := time.Since(began); took > test.bound {
				t.Errorf("the connection was closed after %v, want at most %v", took, test.bound)
			}
			if err := <-answered; err != nil {
				t.Errorf("a peer got no answer meanwhile: %v", err)
			}
		})
	}
}

func TestStrangersCannotUseUpTheLane(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	for range peerapi.MaxOpen + 20 {
		// A connection that says nothing does not reach the lane; one that is answered
		// may stay for long.
		if _, err := io.WriteString(dial(t, i.address()), "GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Identify(within(t, 5*time.Second), i.address()); err != nil {
		t.Fatal(err)
	}
	closed := func() uint64 {
		stats := i.demux.Stats()
		return stats.Lanes[peerapi.Lane].Evicted + stats.Rejected[demux.Overload]
	}
	open := func() int { return i.demux.Stats().Lanes[peerapi.Lane].Open }
	for deadline := time.Now().Add(30 * time.Second); closed() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no connection was closed to make room, and %d are open", open())
		}
	}
	if open := open(); open > peerapi.MaxOpen {
		t.Fatalf("open connections = %d, want at most %d", open, peerapi.MaxOpen)
	}
}
