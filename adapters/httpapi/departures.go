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
