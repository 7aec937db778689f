package frames_test

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/frames"
)

// timedRecorder records the latest write deadline.
type timedRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

// SetWriteDeadline implements a method that http.ResponseController looks for.
func (r *timedRecorder) SetWriteDeadline(at time.Time) error {
	r.deadline = at
	return nil
}

func TestTheDeadlinesOfAStreamInHTTP2(t *testing.T) {
	const farewell = time.Second
	synctest.Test(t, func(t *testing.T) {
		for _, closes := range []bool{false, true} {
			w := &timedRecorder{ResponseRecorder: httptest.NewRecorder()}
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
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
			r.ProtoMajor, r.ProtoMinor = 2, 0
			writer, err := frames.Open(w, r, stalled, func() {})
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
