package httpapi

import (
	"net/http"
	"time"
)

const (
	// shortAnswer is what net/http and a socket take of any answer, also where the client
	// takes nothing, unless it has taken nothing of others before: see guests.hurry.
	shortAnswer = 4 << 10

	// departureGrace is how long the socket of a long answer has for each write once the
	// server closes: for turnBytes of a list, which are few to anybody who reads, or for a
	// piece of a backup.
	departureGrace = 2 * time.Second
)

// departure is a long answer, until it has been taken whole. Its client must not hold up
// the end of the server: from then on it has the grace for what is being written, and
// for each write that follows.
type departure struct {
	http.ResponseWriter
	transfer
}

// reply writes a, and all of its content, as the answer to r. It returns an error where
// the content is not whole.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, a *answer) error {
	if a.content == nil && len(a.body) <= shortAnswer && r.ProtoMajor == 1 {
		a.write(w)
		return nil
	}
	out := s.begin(w, r)
	defer out.handled()
	a.write(out)
	if a.status == http.StatusNotModified || r.Method == http.MethodHead {
		return nil
	}
	if a.content != nil {
		if err := a.content(paced{out, http.NewResponseController(out), s.config.StalledTimeout}); err != nil {
			return err
		}
	}
	out.flush(r)
	return nil
}

// flush has an answer to r of HTTP/2 taken before its handler returns: what net/http is
// left with it writes when nobody can bound that any more, and a client can see to it that
// it takes no byte of it.
func (d *departure) flush(r *http.Request) {
	if r.ProtoMajor > 1 {
		_ = http.NewResponseController(d).Flush() // an error says that the asker has gone
	}
}

// begin gives the writer of an answer to r in place of w. The handler's end has to be told
// to it.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) *departure {
	d := &departure{ResponseWriter: w}
	s.departures.add(&d.transfer, w, r)
	return d
}

// Write implements io.Writer.
func (d *departure) Write(b []byte) (int, error) {
	d.bound(time.Time{})
	return d.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (d *departure) Unwrap() http.ResponseWriter { return d.ResponseWriter }
