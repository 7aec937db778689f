package httpapi_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

const displaced = "nodesmetadata_http_connections_displaced_total"

func fewPending(c *httpapi.Config) { c.MaxPendingConnections = 4 }

// nothingAsked is what a client may have sent without having made a whole request.
var nothingAsked = map[string]string{
	"no byte":                    "",
	"half a request line":        "GET /no",
	"half a header":              "GET /nodes HTTP/1.1\r\nHost: h\r\nX-",
	"the preface of HTTP/2":      http2Preface,
	"half a header of HTTP/2":    http2Preface + "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82",
	"a header and no body":       "PUT /nodes/a HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\n\r\n",
	"half a body":                "PUT /nodes/a HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\n\r\n{",
	"half a body in chunks":      "PUT /nodes/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
	"half the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM",
}

func TestAConnectionWithoutARequestIsEvicted(t *testing.T) {
	for name, text := range nothingAsked {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, fewPending)
			var crowd []net.Conn
			for range 12 {
				crowd = append(crowd, s.dial(t, text))
			}
			if got := s.do(t, "GET", "/livez", ""); got.status != 200 {
				t.Errorf("status of livez beside pending connections = %d, want 200", got.status)
			}
			for _, oldest := range crowd[:9] { // the connection with the request was not evicted
				hangsUp(t, oldest)
			}
			if n := s.metric(t, displaced); n != 9 {
				t.Errorf("displaced connections = %v, want 9", n)
			}
		})
	}
}

// A backup may take long, so a connection that sends one must not be displaced.
func TestAConnectionThatSendsABackupIsNotEvicted(t *testing.T) {
	const body = `{"address": "h:1"}`
	s := start(t, fewPending)
	slow := s.dial(t, "POST /raft/restore HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n")
	for range 12 {
		s.dial(t, "")
	}
	eventually(t, "some connections are displaced", func() bool { return s.metric(t, displaced) >= 7 })
	if _, err := io.WriteString(slow, body); err != nil {
		t.Error(err)
	}
	if answers, _ := hangsUp(t, slow); answers == "" {
		t.Error("the connection that sends a backup was displaced")
	}
}

func TestAConnectionThatHadARequestIsNotEvicted(t *testing.T) {
	s := start(t, fewPending)
	idle := s.dial(t, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
	s.useHTTP2()
	stream := s.stream(t, "/nodes/sse")
	stream.event(t)
	for range 12 {
		s.dial(t, "")
	}
	eventually(t, "some connections are displaced", func() bool { return s.metric(t, displaced) >= 4 })
	s.register(t, domain.NodeSpec{ID: "a", Address: "h:1"})
	stream.event(t)
	if _, err := io.WriteString(idle, "GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if answers, _ := hangsUp(t, idle); answers == "" {
		t.Error("the connection that had a request was displaced")
	}
}

// However many clients connect at once, all that send a request are answered. On a busy
// machine the usual grace may be over before a request is read, so it is longer here. The
// test writes the requests itself, right after connecting, as clients in other processes do.
func TestManyConnectionsWithRequestsAreAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		ask   string
		heard func(io.Reader) bool
	}{
		"HTTP/1.1": {"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n", func(conn io.Reader) bool {
			line, err := bufio.NewReader(conn).ReadString('\n')
			return err == nil && line == "HTTP/1.1 200 OK\r\n"
		}},
		"HTTP/2": {askedByHTTP2("/livez", nil), func(conn io.Reader) bool {
			const ofHeaders, is200 = 1, 0x88 // of the static table
			for {
				var head [9]byte
				if _, err := io.ReadFull(conn, head[:]); err != nil {
					return false
				}
				payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
				if _, err := io.ReadFull(conn, payload); err != nil {
					return false
				}
				if head[3] == ofHeaders {
					return payload[0] == is200
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, fewPending, func(c *httpapi.Config) { c.PendingGrace = time.Minute })
			var crowd []net.Conn
			for range 300 {
				crowd = append(crowd, s.dial(t, test.ask))
			}
			for n, conn := range crowd {
				if !test.heard(conn) {
					t.Errorf("connection %d has no answer 200", n)
				}
			}
			if n := s.metric(t, displaced); n != 0 {
				t.Errorf("displaced connections = %v, want none", n)
			}
		})
	}
}
