package httpapi

import (
	"net/http"
	"time"
)

// shutdownWriteGrace is how long each write of an answer may take once the server closes.
// One write is at most limitedWrite bytes of a list, or maxPiece of a backup: little for any
// client that reads.
const shutdownWriteGrace = 2 * time.Second

// http2Response is an answer of HTTP/2, tracked until it is written. Flow control lets
// its client hold it up, and must not let it hold up the end of the server: once the
// server closes, the current write and each later one must end within
// shutdownWriteGrace. In HTTP/1 only the socket can hold up an answer; see
// connections.shutdown.
type http2Response struct {
	http.ResponseWriter
	transfer
	written bool
}

// reply writes a, and all of its content, as the answer to r. It returns an error if the
// client got only a part of the content.
func (s *Server) reply(w http.ResponseWriter, r request, a *answer) error {
	w, done := s.trackResponse(w, r)
	defer done()
	a.write(w)
	if a.content == nil || a.status == http.StatusNotModified || r.Method == http.MethodHead {
		return nil
	}
	return a.content(pieceWriter{w, http.NewResponseController(w), s.config.StalledTimeout})
}

// trackResponse returns the writer to use instead of w. done must be called when all is
// written, before the handler returns.
func (s *Server) trackResponse(w http.ResponseWriter, r request) (out http.ResponseWriter, done func()) {
	if r.ProtoMajor == 1 {
		return w, func() {}
	}
	h := &http2Response{ResponseWriter: w}
	s.http2Responses.add(&h.transfer, w, r.Request)
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
