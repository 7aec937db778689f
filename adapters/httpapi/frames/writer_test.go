package frames_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/frames"
)

// timedRecorder records the latest write deadline.
type timedRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time

	takes    time.Duration   // of each write and flush
	sizes    []int           // of the writes
	limits   []time.Duration // of the writes and flushes, when they begin
	writeErr error
	flushErr error
}

func newRecorder() *timedRecorder { return &timedRecorder{ResponseRecorder: httptest.NewRecorder()} }

// SetWriteDeadline implements a method that http.ResponseController looks for.
func (r *timedRecorder) SetWriteDeadline(at time.Time) error {
	r.deadline = at
	return nil
}

// Write implements http.ResponseWriter.
func (r *timedRecorder) Write(b []byte) (int, error) {
	r.sizes = append(r.sizes, len(b))
	r.pass()
	if r.writeErr != nil {
		return 0, r.writeErr
	}
	return r.ResponseRecorder.Write(b)
}

// FlushError implements a method that http.ResponseController looks for.
func (r *timedRecorder) FlushError() error {
	r.pass()
	if r.flushErr == nil {
		r.Flush()
	}
	return r.flushErr
}

func (r *timedRecorder) pass() {
	r.limits = append(r.limits, time.Until(r.deadline))
	<-time.After(r.takes)
}

// hijackable is a response on a connection that can be taken over.
type hijackable struct {
	*timedRecorder
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, nil, nil }

// requestOf returns a request in that version, whose client is gone when ctx ends.
func requestOf(ctx context.Context, method string, major, minor int) *http.Request {
	r := httptest.NewRequestWithContext(ctx, method, "/", nil)
	r.ProtoMajor, r.ProtoMinor = major, minor
	return r
}

func TestWhichStreamsTakeTheirConnection(t *testing.T) {
	for name, test := range map[string]struct {
		method       string
		major, minor int
		can, hijacks bool
	}{
		"HTTP/1.1":                          {method: "GET", major: 1, minor: 1, can: true, hijacks: true},
		"HTTP/1.1, a HEAD":                  {method: "HEAD", major: 1, minor: 1, can: true},
		"HTTP/1.1 that can't be taken over": {method: "GET", major: 1, minor: 1},
		"HTTP/1.0":                          {method: "GET", major: 1, minor: 0, can: true},
		"HTTP/2":                            {method: "GET", major: 2, minor: 0, can: true},
	} {
		t.Run(name, func(t *testing.T) {
			client, conn := net.Pipe()
			defer client.Close()
			sent := make(chan string, 1)
			go func() {
				response, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					sent <- err.Error()
					return
				}
				sent <- response.Status + " " + response.Header.Get("X-Test")
			}()
			recorder := newRecorder()
			recorder.Header().Set("X-Test", "1")
			w := http.ResponseWriter(recorder)
			if test.can {
				w = hijackable{recorder, conn}
			}
			writer, err := frames.Open(w, requestOf(t.Context(), test.method, test.major, test.minor), stalled, ignore)
			if err != nil {
				t.Fatal(err)
			}
			if writer.Hijacked() != test.hijacks {
				t.Errorf("Hijacked = %v, want %v", writer.Hijacked(), test.hijacks)
			}
			if test.hijacks {
				if header := <-sent; header != "200 OK 1" {
					t.Errorf("header = %s, want 200 and that of the response", header)
				}
			} else if !recorder.Flushed || recorder.Code != http.StatusOK {
				t.Errorf("status = %d, flushed = %v, want 200 at once", recorder.Code, recorder.Flushed)
			}
			writer.Finish(false)
			conn.Close()
		})
	}
}

func TestAFrameIsWrittenInPiecesWithADeadlineForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRecorder()
		writer, err := frames.Open(w, requestOf(t.Context(), "GET", 2, 0), stalled, ignore)
		if err != nil {
			t.Fatal(err)
		}
		w.limits, w.takes = nil, stalled*9/10
		text := strings.Repeat("x", 2*frames.MaxPiece) + "end"
		if err := writer.Send(frame(text)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.sizes, []int{frames.MaxPiece, frames.MaxPiece, 3}) {
			t.Errorf("sizes of the writes = %d, want two of %d and the rest", w.sizes, frames.MaxPiece)
		}
		if each := slices.Repeat([]time.Duration{stalled}, len(w.sizes)+1); !slices.Equal(w.limits, each) {
			t.Errorf("limits of the writes and of the flush = %v, want %v each", w.limits, stalled)
		}
		if got := w.Body.String(); got != text {
			t.Errorf("body = %d bytes, want the %d of the frame", len(got), len(text))
		}
		w.takes = 0
		writer.Finish(true)
	})
}

func TestAStreamThatCannotBeWrittenSaysWhy(t *testing.T) {
	broken := errors.New("broken")
	for name, breaks := range map[string]func(*timedRecorder){
		"a write": func(w *timedRecorder) { w.writeErr = broken },
		"a flush": func(w *timedRecorder) { w.flushErr = broken },
	} {
		w := newRecorder()
		writer, err := frames.Open(w, requestOf(t.Context(), "GET", 2, 0), stalled, ignore)
		if err != nil {
			t.Fatal(err)
		}
		breaks(w)
		if err := writer.Send(frame("x")); err != broken {
			t.Errorf("Send when %s fails = %v, want its error", name, err)
		}
		writer.Finish(false)
	}
	w := newRecorder()
	w.flushErr = broken
	writer, err := frames.Open(w, requestOf(t.Context(), "GET", 2, 0), stalled, ignore)
	if err != broken || writer == nil {
		t.Fatalf("Open = %v, %v, want a Writer and the error of the flush", writer, err)
	}
	writer.Finish(false)
}

func TestAStreamInHTTP2NoticesThatItsClientHasGone(t *testing.T) {
	for _, finished := range []bool{false, true} {
		t.Run(fmt.Sprintf("finished before = %v", finished), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, leave := context.WithCancel(t.Context())
				defer leave()
				told := false
				writer, err := frames.Open(newRecorder(), requestOf(client, "GET", 2, 0), stalled, func() { told = true })
				if err != nil {
					t.Fatal(err)
				}
				if writer.ClientGone() {
					t.Error("ClientGone = true before the client went")
				}
				if finished {
					writer.Finish(true)
				}
				leave()
				synctest.Wait()
				if !writer.ClientGone() || told == finished {
					t.Errorf("ClientGone = %v, told = %v, want true and %v", writer.ClientGone(), told, !finished)
				}
				if !finished {
					writer.Finish(false)
				}
			})
		})
	}
}

func TestTheDeadlinesOfAStreamInHTTP2(t *testing.T) {
	const farewell = time.Second
	synctest.Test(t, func(t *testing.T) {
		for _, closes := range []bool{false, true} {
			w := newRecorder()
			holds := func(what string, want time.Duration) {
				t.Helper()
				got := time.Duration(0)
				if !w.deadline.IsZero() {
					got = time.Until(w.deadline)
				}
				if got != want {
					t.Errorf("server closes = %v: the deadline of %s is in %v, want %v", closes, what, got, want)
				}
				<-time.After(time.Minute)
			}
			writer, err := frames.Open(w, requestOf(t.Context(), "GET", 2, 0), stalled, ignore)
			if err != nil {
				t.Fatal(err)
			}
			idle, last := time.Duration(0), stalled
			if closes {
				writer.ShortenDeadlines()
				holds("what is being written", farewell)
				idle, last = farewell, farewell
			}
			if err := writer.Send(frame("x")); err != nil {
				t.Fatal(err)
			}
			holds("what waits for the next event", idle)
			writer.Finish(true)
			holds("the end", last)
			// Now the handler returns, and the writer must not be touched any more, even if
			// a timer expires only then.
			w.deadline = time.Time{}
			writer.ShortenDeadlines()
			holds("what comes after the end", 0)
		}
	})
}
