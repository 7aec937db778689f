package lean

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server with this handler and returns a connection to it.
func serve(t *testing.T, handler http.HandlerFunc) *Conn {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := Dial(strings.TrimPrefix(server.URL, "http://"), 128)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var request = []byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n")

func TestAnswersAreChecked(t *testing.T) {
	tests := map[string]struct {
		status  int
		body    string
		refused bool // with a StatusError
		wrong   bool
	}{
		"status 200 is accepted":                 {status: 200, body: `{"id":"a"}`},
		"status 201 is accepted":                 {status: 201, body: `{"id":"a"}`},
		"a redirect is a refusal":                {status: 307, refused: true, wrong: true},
		"status 503 is a refusal":                {status: 503, body: `{"id":"a"}`, refused: true, wrong: true},
		"a body with another beginning is wrong": {status: 200, body: `{"id":"b"}`, wrong: true},
		"a body that is too short is wrong":      {status: 200, body: `{"`, wrong: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Nodesmetadata-Revision", "42")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			for range 2 { // the connection stays usable
				answer, err := c.Do(request, []byte(`{"id":"a"`))
				var status StatusError
				if (err != nil) != test.wrong || errors.As(err, &status) != test.refused {
					t.Errorf("error = %v, want one: %v, a StatusError: %v", err, test.wrong, test.refused)
				}
				if answer != (Answer{Revision: 42, Length: len(test.body)}) {
					t.Errorf("answer = %+v, want revision 42 and length %d", answer, len(test.body))
				}
			}
		})
	}
}

func TestAnAnswerWithoutALengthIsWrong(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() })
	if _, err := c.Do(request, nil); err == nil {
		t.Error("Do = nil, want an error for an answer without a length")
	}
}

func TestARequestEndsWithItsTime(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c.Timeout = time.Millisecond
	var slow net.Error
	if _, err := c.Do(request, nil); !errors.As(err, &slow) || !slow.Timeout() {
		t.Errorf("error = %v, want a timeout", err)
	}
}

func TestEventsAreRead(t *testing.T) {
	long := strings.Repeat("x", 300) // more than the buffer holds
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, block := range []string{
			"retry: 1000\nevent: snapshot\nid: 7\ndata: " + long + "\n\n",
			": quiet\n\n",
			"event: snapshot\ndata: without an id\n\n",
			"event: added\nid: 8\ndata: {}\n\nevent: removed\nid: 9\ndata: {}\n\n",
			": the end\n\n",
		} {
			_, _ = io.WriteString(w, block)
			_ = http.NewResponseController(w).Flush()
		}
	})
	stream, err := c.Stream(request)
	if err != nil {
		t.Fatal(err)
	}
	events := NewEvents(stream)
	for _, want := range []Event{{ID: 7, Snapshot: true}, {ID: 8}, {ID: 9}} {
		if got, err := events.Next(); err != nil || got != want {
			t.Errorf("Next = %+v, %v, want %+v", got, err, want)
		}
	}
	if _, err := events.Next(); !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "the end") {
		t.Errorf("error at the end = %v, want EOF with the last comment", err)
	}
}
