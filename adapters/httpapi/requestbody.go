package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// requestBody is the body of a request, tracked until all of it is read. Read is for one
// goroutine.
type requestBody struct {
	io.ReadCloser
	transfer
	request context.Context
	tracker *tracker
}

// trackBody returns the body to use instead of r.Body. Its handlerDone must be called
// when the handler returns.
func (t *tracker) trackBody(w http.ResponseWriter, r *http.Request) *requestBody {
	b := &requestBody{ReadCloser: r.Body, request: r.Context(), tracker: t}
	t.bodies.add(&b.transfer, w, r)
	b.limitUntil(time.Time{})
	return b
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.finish()
		b.establish()
	case errors.Is(err, os.ErrDeadlineExceeded) && b.owner.shuttingDown():
		err = b.tracker.lateBody
	}
	return n, err
}

// establish ends the pending state of the connection before all of the body has arrived:
// for one that may take long.
func (b *requestBody) establish() { b.tracker.pending.establish(b.request) }
