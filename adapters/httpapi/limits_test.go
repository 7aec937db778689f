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

// endless is a body of left bytes that counts how many were read.
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
		"with its length":                  {"Content-Length: 104857600", "413"},
		"in chunks":                        {"Transfer-Encoding: chunked", "413"},
		"with a huge length that is false": {"Content-Length: 9223372036854775807", "413"},
		"with a malformed length":          {"Content-Length: 1e8", "400"},
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
				t.Errorf("status line = %q, %v, want %s", response, err, test.status)
			}
			<-sent // writing fails once the server has closed the connection
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

// Many clients read no answer before they have sent everything.
func TestAClientThatSendsAllOfALongBodyGetsTheRefusal(t *testing.T) {
	const long = 12 << 20 // more than the buffers of sockets
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
				t.Errorf("answer = %d %s, %v, want 413 and the end of the connection", response.StatusCode, said, err)
			}
		})
	}
}

// net/http reads at most 256 KiB of a body that its handler did not read, and closes the
// connection half a second later.
func TestAClientThatSendsAllOfABodyGetsTheRefusal(t *testing.T) {
	const length, piece = 1_000_000, 50_000
	tests := map[string]struct {
		asks   string
		header string
		status int
	}{
		"for its media type":                       {asks: "PUT /nodes", header: "Content-Type: text/plain\r\n", status: 415},
		"for its query":                            {asks: "PUT /nodes?x=1", status: 400},
		"for the query of a read":                  {asks: "GET /nodes?x=1", status: 400},
		"for the query of a stream":                {asks: "GET /nodes/sse?x=1", status: 400},
		"for its condition":                        {asks: "PUT /nodes", header: "If-Match: 1\r\n", status: 400},
		"for its path":                             {asks: "PUT /nope", status: 404},
		"for its method":                           {asks: "PATCH /nodes", status: 405},
		"for its origin":                           {asks: "PUT /nodes", header: "Sec-Fetch-Site: cross-site\r\n", status: 403},
		"for its condition, with a body in chunks": {asks: "PUT /nodes", header: "If-Match: 1\r\nTransfer-Encoding: chunked\r\n", status: 400},
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
					t.Fatalf("sending failed after %d bytes: %v", body.taken, err)
				}
				<-time.After(time.Second * piece / length)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(response.Body); err != nil || response.StatusCode != test.status {
				t.Errorf("answer = %d %s, %v, want %d", response.StatusCode, said, err, test.status)
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
				t.Errorf("status line after %v = %q, %v, want 413 within a second", took, line, err)
			}
			if rest, after := hangsUp(t, reader); after > 5*time.Second {
				t.Errorf("after %q the connection was open for %v, want at most 5s", rest, after)
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
		t.Errorf("answer = %d %s, want 413 body_too_large", got.status, code)
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
				t.Errorf("%s, %s: answer = %d %s, want 413 body_too_large", path, name, got.status, code)
			}
		}
		if got := s.do(t, method, path, strings.Repeat(" ", 1<<20)); got.status != 200 {
			t.Errorf("%s with a body within the limit: answer = %d %s, want 200", path, got.status, got.body)
		}
	}
}

func TestALargeBodyWithinTheLimitIsRead(t *testing.T) {
	s := start(t)
	got := s.do(t, "PUT", "/nodes/a", `{"address":"h:1"`+strings.Repeat(" ", 1<<20-20)+`}`)
	if got.status != 201 {
		t.Errorf("answer = %d %s, want 201", got.status, got.body)
	}
}

// hangsUp reads until the server closes the connection, and returns what it read and how long
// that took.
func hangsUp(t *testing.T, conn io.Reader) (answer string, after time.Duration) {
	t.Helper()
	began := time.Now()
	text, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the server did not close the connection: %v", err)
	}
	return string(text), time.Since(began)
}

func shortTimes(c *httpapi.Config) {
	c.HeaderTimeout, c.RequestTimeout, c.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
}

func TestSlowClientsAreCutOff(t *testing.T) {
	// HeaderTimeout is long enough for a busy machine to read the header in time.
	shortBody := func(c *httpapi.Config) { c.HeaderTimeout, c.RequestTimeout = 9*time.Second, 100*time.Millisecond }
	shortIdle := func(c *httpapi.Config) {
		c.HeaderTimeout, c.RequestTimeout, c.IdleTimeout = 9*time.Second, 10*time.Second, 100*time.Millisecond
	}
	tests := map[string]struct {
		send, answer string
		short        func(*httpapi.Config)
	}{
		"a silent connection":         {"", "", shortTimes},
		"half a request line":         {"GET /no", "", shortTimes},
		"half a header":               {"GET /nodes HTTP/1.1\r\nHost: h\r\nX-", "", shortTimes},
		"half a body":                 {"PUT /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{", "HTTP/1.1 408 ", shortBody},
		"half a chunk":                {"PUT /nodes HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "HTTP/1.1 408 ", shortBody},
		"nothing after a request":     {"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 ", shortIdle},
		"half the preface of HTTP/2":  {"PRI * HTTP/2.0\r\n\r\nSM", "", shortTimes},
		"the preface of HTTP/2 alone": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", shortTimes},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, test.short)
			answer, after := hangsUp(t, s.dial(t, test.send))
			if !strings.HasPrefix(answer, test.answer) || test.answer == "" && strings.Contains(answer, "HTTP/1.1 2") {
				t.Errorf("answer = %q, want %q", answer, test.answer)
			}
			if after > 11*time.Second {
				t.Errorf("the connection was closed after %v, want at most 11s", after)
			}
		})
	}
}

// With the default timeouts, the answer to a slow body must come before the time to write it is
// over.
func TestASlowBodyIsAnsweredWithinTenSeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	answer, after := hangsUp(t, s.dial(t, "PUT /nodes HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{"))
	if !strings.HasPrefix(answer, "HTTP/1.1 408 ") || after > 10*time.Second {
		t.Errorf("answer after %v = %q, want 408 within 10s", after, answer)
	}
}

// Over HTTP/2, "close" would also end the connection for other requests.
func TestASlowBodyClosesTheConnectionOnlyOverHTTP1(t *testing.T) {
	s := start(t)
	for major, want := range map[int]string{1: "close", 2: ""} {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/nodes", failing{os.ErrDeadlineExceeded})
		r.ProtoMajor = major
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Connection"); w.Code != 408 || got != want {
			t.Errorf("HTTP/%d: status = %d, Connection = %q, want 408 and %q", major, w.Code, got, want)
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
			// IdleTimeout is long: the connection seems to be idle, but must be closed for
			// another reason.
			s := start(t, shortTimes, func(c *httpapi.Config) { c.IdleTimeout = time.Hour })
			if _, after := hangsUp(t, s.dial(t, text)); after > 5*time.Second {
				t.Errorf("the connection was closed after %v, want at most 5s", after)
			}
		})
	}
}

// With HTTP/2 the server waits for two timeouts in turn.
func TestSlowHeadersOfHTTP2AreCutOffWithinTenSeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	if _, after := hangsUp(t, s.dial(t, http2Preface+"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")); after > 10*time.Second {
		t.Errorf("the connection was closed after %v, want at most 10s", after)
	}
}

// http2Preface is the client preface of HTTP/2 with an empty SETTINGS frame.
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
		t.Errorf("status line = %q, %v, want 431", line, err)
	}
}

func TestTheServerSurvivesGarbage(t *testing.T) {
	// Some of it is answered only after HeaderTimeout, because more could have come.
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
		t.Errorf("status of livez afterwards = %d, want 200", got.status)
	}
}

func TestAClientThatDoesNotReadItsAnswerIsCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, shortTimes)
	s.fill(t, 60_000)  // far more than the buffers of a loopback socket
	s.get(t, "/nodes") // the list is cached now, so the response needs no time to encode it
	conn := s.dial(t, "GET /nodes HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "the request is over", func() bool {
		return s.metric(t, "nodesmetadata_http_requests_total", "/nodes") == 2
	})
	if answer, _ := hangsUp(t, conn); !strings.HasPrefix(answer, "HTTP/1.1 200 ") || strings.HasSuffix(answer, "}}") {
		t.Errorf("answer of %d bytes = %.40q..., want a 200 that is broken off", len(answer), answer)
	}
}
