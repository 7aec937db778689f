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

// shutdownReadGrace is how long the server waits for the rest of a request once it
// closes: enough for a body that is on its way, and little beside the time that there is
// to stop. Nothing is lost with a request that does not arrive: nothing was done for it.
const shutdownReadGrace = time.Second

// requestBody is the body of a request, tracked until all of it is read. Read is for one
// goroutine.
type requestBody struct {
	io.ReadCloser
	transfer
	request context.Context
	pending *pendingConns
}

// trackBody returns the body to use instead of r.Body. Its handlerDone must be called
// when the handler returns.
func (s *Server) trackBody(w http.ResponseWriter, r *http.Request) *requestBody {
	b := &requestBody{ReadCloser: r.Body, request: r.Context(), pending: s.pending}
	s.requestBodies.add(&b.transfer, w, r)
	b.limitUntil(time.Time{})
	return b
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.finish()
		b.pending.establish(b.request)
	case errors.Is(err, os.ErrDeadlineExceeded) && b.owner.shuttingDown():
		err = fmt.Errorf("%w: the rest of the request did not come in time", ports.ErrClosed)
	}
	return n, err
}
