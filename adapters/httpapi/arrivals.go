package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// arrivalGrace is how long the rest of a request is waited for once the server
// closes: enough for one that is on its way, and little beside the time that there is
// to stop. Nobody loses anything with one that does not come: nothing was done for it.
const arrivalGrace = time.Second

// arrival is the body of a request, until it has arrived whole. Read is for one goroutine.
type arrival struct {
	io.ReadCloser
	transfer
	request   context.Context
	newcomers *newcomers
}

// expect gives the body of r in place of the one that it has. The handler's end has to
// be told to it.
func (s *Server) expect(w http.ResponseWriter, r *http.Request) *arrival {
	a := &arrival{ReadCloser: r.Body, request: r.Context(), newcomers: s.newcomers}
	s.arrivals.add(&a.transfer, w, r)
	a.bound(time.Time{})
	return a
}

// Read implements io.Reader.
func (a *arrival) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	switch {
	case err == io.EOF:
		a.end()
		a.newcomers.hear(a.request)
	case errors.Is(err, os.ErrDeadlineExceeded) && a.among.hurried():
		err = fmt.Errorf("%w: the rest of the request did not come in time", ports.ErrClosed)
	}
	return n, err
}
