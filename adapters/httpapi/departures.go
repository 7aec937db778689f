package httpapi

import (
	"net/http"
	"time"
)

// departureGrace is how long the socket of an answer has for each write once the server
// closes: for turnBytes of a list, which are few to anybody who reads, or for a piece of a
// backup.
const departureGrace = 2 * time.Second

// departure is an answer of HTTP/2, until it has been taken whole. Its client says how much
// it takes, and must not hold up the end of the server: from then on it has the grace for
// what is being written, and for each write that follows. In HTTP/1 only a socket can hold
// up an answer, and that is bounded itself: see guests.hurry.
type departure struct {
	http.ResponseWriter
	transfer
	written bool
}

// reply writes a, and all of its content, as the answer to r. It returns an error where
// the content is not whole.
func (s *Server) reply(w http.ResponseWriter, r request, a *answer) error {
	w, done := s.depart(w, r)
	defer done()
	a.write(w)
	if a.content == nil || a.status == http.StatusNotModified || r.Method == http.MethodHead {
		return nil
	}
	return a.content(pieceWriter{w, http.NewResponseController(w), s.config.StalledTimeout})
}

// depart gives the writer of an answer to r in place of w. done is to be called when all is
// written, before the handler returns.
func (s *Server) depart(w http.ResponseWriter, r request) (out http.ResponseWriter, done func()) {
	if r.ProtoMajor == 1 {
		return w, func() {}
	}
	d := &departure{ResponseWriter: w}
	s.departures.add(&d.transfer, w, r.Request)
	return d, func() {
		if d.written {
			// What net/http is left with it writes when nobody can bound that any more. An
			// error says that the asker has gone.
			_ = http.NewResponseController(d).Flush()
		}
		d.handled()
	}
}

// Write implements io.Writer.
func (d *departure) Write(b []byte) (int, error) {
	d.written = true
	d.bound(time.Time{})
	return d.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (d *departure) Unwrap() http.ResponseWriter { return d.ResponseWriter }
