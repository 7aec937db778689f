package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
)

// endless is a body of n bytes that counts how many were taken.
type endless struct{ left, taken int64 }

func (e *endless) Read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), e.left)
	for i := range b[:n] {
		b[i] = ' '
	}
	e.left -= n
	e.taken += n
	return int(n), nil
}

func TestAHugeBodyIsRefusedWithoutBeingRead(t *testing.T) {
	const huge = 100 << 20
	tests := map[string]struct {
		header string
		status string
	}{
		"with its length":              {"Content-Length: 104857600", "413"},
		"in chunks":                    {"Transfer-Encoding: chunked", "413"},
		"with a length that is a lie":  {"Content-Length: 9223372036854775807", "413"},
		"with a length that is no one": {"Content-Length: 1e8", "400"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			conn := s.dial(t, "PUT /nodes HTTP/1.1\r\nHost: h\r\n"+test.header+"\r\n\r\n")
			body := &endless{left: huge}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				if strings.HasPrefix(test.header, "Transfer") {
					_, _ = io.WriteString(conn, "6400000\r\n") // one chunk of 100 MiB
				}
				_, _ = io.Copy(conn, body)
			}()
			response, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.HasPrefix(response, "HTTP/1.1 "+test.status) {
				t.Errorf("answered %q: %v", response, err)
			}
			<-sent // it fails once the server has hung up
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("memory allocated for the body = %d bytes, want at most 16 MiB", grown)
			}
			if body.taken > huge/2 {
				t.Errorf("bytes read of the body = %d, want at most %d", body.taken, huge/2)
			}
		})
	}
}

// Many a client reads no answer before it has sent all.
func TestAClientThatSendsAllOfALongBodyGetsTheRefusal(t *testing.T) {
	const long = 12 << 20 // more than sockets hold
	for name, header := range map[string]string{
		"with its length": fmt.Sprintf("Content-Length: %d\r\n\r\n", long),
		"in chunks":       fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", long),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			conn := s.dial(t, "PUT /nodes HTTP/1.1\r\nHost: h\r\n"+header)
			if _, err := io.Copy(conn, &endless{left: long}); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(response.Body); err != nil || response.StatusCode != 413 || !response.Close {
				t.Errorf("answered %d %s: %v", response.StatusCode, said, err)
			}
		})
	}
}

// net/http reads no more than 256 KiB of a body that its handler left, and closes the
// connection half a second later.
func TestAClientThatSendsAllOfABodyGetsTheRefusal(t *testing.T) {
	const length, piece = 1_000_000, 50_000
	tests := map[string]struct {
		asks   string
		header string
		status int
	}{
		"the media type":         {asks: "PUT /nodes", header: "Content-Type: text/plain\r\n", status: 415},
		"the query":              {asks: "PUT /nodes?x=1", status: 400},
		"the query of a read":    {asks: "GET /nodes?x=1", status: 400},
		"the query of a stream":  {asks: "GET /nodes/sse?x=1", status: 400},
		"the condition":          {asks: "PUT /nodes", header: "If-Match: 1\r\n", status: 400},
		"the path":               {asks: "PUT /nope", status: 404},
		"the method":             {asks: "PATCH /nodes", status: 405},
		"a page that must not":   {asks: "PUT /nodes", header: "Sec-Fetch-Site: cross-site\r\n", status: 403},
		"the condition, chunked": {asks: "PUT /nodes", header: "If-Match: 1\r\nTransfer-Encoding: chunked\r\n", status: 400},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			head := fmt.Sprintf("%s HTTP/1.1\r\nHost: h\r\n%s", test.asks, test.header)
			if strings.Contains(head, "chunked") {
				head += fmt.Sprintf("\r\n%x\r\n", length)
			} else {
				head += fmt.Sprintf("Content-Length: %d\r\n\r\n", length)
			}
			conn := s.dial(t, head)
			for body := (&endless{left: length}); body.left > 0; {
				if _, err := io.CopyN(conn, body, piece); err != nil {
					t.Fatalf("after %d bytes: %v", body.taken, err)
				}
				<-time.After(time.Second * piece / length)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(response.Body); err != nil || response.StatusCode != test.status {
				t.Errorf("answered %d %s: %v", response.StatusCode, said, err)
			}
		})
	}
}

func TestAClientThatStopsSendingALongBodyIsAnsweredAndCutOff(t *testing.T) {
	for name, expects := range map[string]string{"it was to come": "", "it waits to be asked for it": "Expect: 100-continue\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, shortTimes)
			conn := s.dial(t, "PUT /nodes HTTP/1.1\r\nHost: h\r\n"+expects+"Content-Length: 50000000\r\n\r\n")
			began := time.Now()
			reader := bufio.NewReader(conn)
			line, err := reader.ReadString('\n')
			if took := time.Since(began); err != nil || !strings.HasPrefix(line, "HTTP/1.1 413 ") || took > time.Second {
				t.Errorf("after %v answered %q: %v", took, line, err)
			}
			if rest, after := hangsUp(t, reader); after > 5*time.Second {
				t.Errorf("after %q it took %v", rest, after)
			}
		})
	}
}

func TestAHugeBodyOverHTTP2IsRefusedToo(t *testing.T) {
	s := start(t)
	s.useHTTP2()
	body := &endless{left: 100 << 20}
	got := s.send(t, "PUT", "/nodes", body)
	if code, _ := got.problem(t); got.status != 413 || code != "body_too_large" {
		t.Errorf("got %d %s", got.status, code)
	}
}

func TestABodyThatIsIgnoredIsRefusedWhenItIsTooLarge(t *testing.T) {
	for path, method := range map[string]string{
		"/nodes/a": "DELETE", "/raft/node/n2": "DELETE", "/nodes/l/heartbeat": "POST", "/nodes/expire?pool=default": "POST",
	} {
		s := start(t)
		seed(t, s)
		s.do(t, "PUT", "/nodes/l", `{"address":"l:1","ttlSeconds":60}`)
		s.addSecond(t)
		long := strings.Repeat(" ", 1<<20+1)
		for name, body := range map[string]io.Reader{"with its length": strings.NewReader(long), "in chunks": io.MultiReader(strings.NewReader(long))} {
			got := s.send(t, method, path, body)
			if code, _ := got.problem(t); got.status != 413 || code != "body_too_large" {
				t.Errorf("%s, %s: got %d %s", path, name, got.status, code)
			}
		}
		if got := s.do(t, method, path, strings.Repeat(" ", 1<<20)); got.status != 200 {
			t.Errorf("%s: got %d %s", path, got.status, got.body)
		}
	}
}

func TestALargeBodyWithinTheLimitIsRead(t *testing.T) {
	s := start(t)
	got := s.do(t, "PUT", "/nodes/a", `{"address":"h:1"`+strings.Repeat(" ", 1<<20-20)+`}`)
	if got.status != 201 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

// hangsUp reads until the server closes the connection.
func hangsUp(t *testing.T, conn io.Reader) (answer string, after time.Duration) {
	t.Helper()
	began := time.Now()
	text, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the server did not hang up: %v", err)
	}
	return string(text), time.Since(began)
}

func shortTimes(c *httpapi.Config) {
	c.HeaderTimeout, c.RequestTimeout, c.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
}

func TestSlowClientsAreCutOff(t *testing.T) {
	// HeaderTimeout is long, so that a busy machine still reads the header in time.
	shortBody := func(c *httpapi.Config) { c.HeaderTimeout, c.RequestTimeout = 9*time.Second, 100*time.Millisecond }
	shortIdle := func(c *httpapi.Config) {
		c.HeaderTimeout, c.RequestTimeout, c.IdleTimeout = 9*time.Second, 10*time.Second, 100*time.Millisecond
	}
	tests := map[string]struct {
		send, answer string
		short        func(*httpapi.Config)
	}{
		"a silent connection":        {"", "", shortTimes},
		"half a request line":        {"GET /no", "", shortTimes},
		"half a header":              {"GET /nodes HTTP/1.1\r\nHost: h\r\nX-", "", shortTimes},
		"half a body":                {"PUT /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{", "HTTP/1.1 408 ", shortBody},
		"half a chunk":               {"PUT /nodes HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "HTTP/1.1 408 ", shortBody},
		"nothing after a request":    {"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 ", shortIdle},
		"half the preface of HTTP/2": {"PRI * HTTP/2.0\r\n\r\nSM", "", shortTimes},
		"nothing after that preface": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", shortTimes},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, test.short)
			answer, after := hangsUp(t, s.dial(t, test.send))
			if !strings.HasPrefix(answer, test.answer) || test.answer == "" && strings.Contains(answer, "HTTP/1.1 2") {
				t.Errorf("answered %q", answer)
			}
			if after > 11*time.Second {
				t.Errorf("the connection was closed after %v, want at most 11s", after)
			}
		})
	}
}

// With the times that are the default, the answer must not come when writing it
// is over.
func TestASlowBodyIsAnsweredWithinTenSeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	answer, after := hangsUp(t, s.dial(t, "PUT /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{"))
	if !strings.HasPrefix(answer, "HTTP/1.1 408 ") || after > 10*time.Second {
		t.Errorf("after %v answered %q", after, answer)
	}
}

// Others share the connection of HTTP/2, which "close" would retire.
func TestASlowBodyClosesTheConnectionOnlyOverHTTP1(t *testing.T) {
	s := start(t)
	for major, want := range map[int]string{1: "close", 2: ""} {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/nodes", failing{os.ErrDeadlineExceeded})
		r.ProtoMajor = major
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Connection"); w.Code != 408 || got != want {
			t.Errorf("HTTP/%d: got %d, connection %q", major, w.Code, got)
		}
	}
}

func TestSlowHeadersOfHTTP2AreCutOffToo(t *testing.T) {
	for name, text := range map[string]string{
		"headers without an end": http2Preface + "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82",
		"a frame without an end": http2Preface + "\x00\x00\xff\x01\x04\x00\x00\x00\x01\x82",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Not because the connection is idle, which it seems to be.
			s := start(t, shortTimes, func(c *httpapi.Config) { c.IdleTimeout = time.Hour })
			if _, after := hangsUp(t, s.dial(t, text)); after > 5*time.Second {
				t.Errorf("the connection was closed after %v, want at most 5s", after)
			}
		})
	}
}

// Nor with HTTP/2, where two times are waited for, one after the other.
func TestSlowHeadersOfHTTP2AreCutOffWithinTenSeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	if _, after := hangsUp(t, s.dial(t, http2Preface+"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")); after > 10*time.Second {
		t.Errorf("the connection was closed after %v, want at most 10s", after)
	}
}

// http2Preface is the preface and empty settings.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func TestHeadersAreBounded(t *testing.T) {
	s := start(t)
	conn := s.dial(t, "")
	go func() {
		_, _ = io.WriteString(conn, "GET /nodes HTTP/1.1\r\nHost: h\r\n")
		for range 1 << 10 {
			if _, err := io.WriteString(conn, "X: "+strings.Repeat("x", 1<<10)+"\r\n"); err != nil {
				return
			}
		}
	}()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 431 ") {
		t.Errorf("answered %q: %v", line, err)
	}
}

func TestTheServerSurvivesGarbage(t *testing.T) {
	// Some of it is answered when more could have come.
	s := start(t, func(c *httpapi.Config) { c.HeaderTimeout = time.Second })
	conns := map[string]net.Conn{}
	for _, text := range []string{"\x00\x01\x02\x03\r\n\r\n", "\x01\r\n\r\n", "GET\r\n\r\n", "GET /nodes HTTP/9.9\r\n\r\n",
		"GET /nodes HTTP/1.1\r\n\r\n", "GET http:// HTTP/1.1\r\nHost: h\r\n\r\n", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n"} {
		conns[text] = s.dial(t, text)
	}
	for text, conn := range conns {
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(line, "HTTP/1.1 4") && !strings.HasPrefix(line, "HTTP/1.1 505") {
			t.Errorf("answer to %q = %q, want a status of 4xx or 505", text, line)
		}
		conn.Close()
	}
	if got := s.do(t, "GET", "/livez", ""); got.status != 200 {
		t.Errorf("afterwards livez says %d", got.status)
	}
}

func TestAClientThatDoesNotReadItsAnswerIsCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, shortTimes)
	s.fill(t, 60_000)  // far more than the buffers of a socket on loopback hold
	s.get(t, "/nodes") // from now on it is encoded, which is no part of the time to send it
	conn := s.dial(t, "GET /nodes HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "the request is over", func() bool {
		return s.metric(t, "nodesmetadata_http_requests_total", "/nodes") == 2
	})
	if answer, _ := hangsUp(t, conn); !strings.HasPrefix(answer, "HTTP/1.1 200 ") || strings.HasSuffix(answer, "}}") {
		t.Errorf("the answer is to begin and never to end; it has %d bytes and begins with %.40q", len(answer), answer)
	}
}
