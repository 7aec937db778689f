package conns

import (
	"net/http"
	"time"
)

// http2Response is an answer of HTTP/2, tracked until it is written. Flow control lets
// its client hold it up, and must not let it hold up the end of the server: once the
// server closes, the current write and each later one must end within WriteGrace. In
// HTTP/1 only the socket can hold up an answer; see connections.shutdown.
type http2Response struct {
	http.ResponseWriter
	transfer
	written bool
}

// TrackResponse returns the writer to use for the answer to r instead of w. done must be
// called when all is written, before the handler returns.
func (t *Tracker) TrackResponse(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, done func()) {
	if r.ProtoMajor == 1 {
		return w, func() {}
	}
	h := &http2Response{ResponseWriter: w}
	t.responses.add(&h.transfer, w, r)
	return h, func() {
		if h.written {
			// What is buffered now net/http would write after the handler, when no
			// deadline can be set any more. An error means that the client has gone.
			_ = http.NewResponseController(h).Flush()
		}
		h.handlerDone()
	}
}

// Write implements io.Writer.
func (h *http2Response) Write(b []byte) (int, error) {
	h.written = true
	h.limitUntil(time.Time{})
	return h.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (h *http2Response) Unwrap() http.ResponseWriter { return h.ResponseWriter }
