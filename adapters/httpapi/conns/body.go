package conns

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// Body is the body of a request, tracked until all of it is read. Read is for one
// goroutine.
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

// Read implements io.Reader. When the deadline is over it returns os.ErrDeadlineExceeded, or
// Config.LateBody if the server closes.
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

// Establish has the connection count as one whose first request has arrived, however much
// of it has: for a body that may take long.
func (b *Body) Establish() { b.tracker.pending.establish(b.request) }

// LimitUntil gives the rest of b until at, instead of the time that net/http gives all of
// it. If the server closes, Config.LateBody may come earlier.
func (b *Body) LimitUntil(at time.Time) { b.limitUntil(at) }

// IsFinished reports whether all of b has been read, or nobody waits for the rest any more.
func (b *Body) IsFinished() bool { return b.isFinished() }
