package conns

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// Body is the body of a request, tracked until all of it is read. Only one goroutine may read
// it at a time.
type Body struct {
	content io.ReadCloser
	transfer
	request context.Context
	tracker *Tracker
}

// trackBody returns the body to use instead of r.Body. Its handlerDone must be called
// when the handler returns.
func (t *Tracker) trackBody(w http.ResponseWriter, r *http.Request) *Body {
	b := &Body{content: r.Body, request: r.Context(), tracker: t}
	t.bodies.add(&b.transfer, w, r)
	b.limitUntil(time.Time{})
	return b
}

// Read implements io.Reader. After the deadline it returns os.ErrDeadlineExceeded, or
// Config.LateBody if the server is closing.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.content.Read(p)
	switch {
	case err == io.EOF:
		b.finish()
		b.Establish()
	case errors.Is(err, os.ErrDeadlineExceeded) && b.owner.shuttingDown():
		err = b.tracker.lateBody
	}
	return n, err
}

// Close implements io.Closer.
func (b *Body) Close() error { return b.content.Close() }

// Establish makes the connection count as one whose first request has arrived, although the
// rest of b may take long: it is not closed because of Config.MaxPending any more.
func (b *Body) Establish() { b.tracker.pending.establish(b.request) }

// LimitUntil sets the deadline for the rest of b to at, instead of the one that net/http has
// set for all of it. When the server closes, the deadline may become earlier: see ReadGrace.
func (b *Body) LimitUntil(at time.Time) { b.limitUntil(at) }

// IsFinished reports whether all of b has been read, or net/http is done with the request.
func (b *Body) IsFinished() bool { return b.isFinished() }
