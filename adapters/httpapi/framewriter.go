package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// frameWriter sends the frames of an eventStream to its client. All methods but
// shortenDeadlines and abort are for one goroutine.
type frameWriter interface {
	// writeFrame sends all of a frame before it returns.
	writeFrame(frame []byte) error
	// shortenDeadlines gives the current write, and each later one, finalWriteTimeout.
	shortenDeadlines()
	// abort breaks the response off.
	abort()
	// clientGone reports whether the client has closed the connection or the request.
	clientGone() bool
	// finish is called once. Only shortenDeadlines and abort may be called after it. A
	// response that is not whole is broken off: nothing more is sent, and its client can
	// tell.
	finish(whole bool)
}

// A frame is what is sent at once, with room around it for the chunked coding of
// HTTP/1.1: the length in four digits before it, and the end of the line behind it.
const (
	frameHead = len("ffff\r\n")
	frameTail = len("\r\n")
)

// openFrameWriter sends the header of w, and calls clientLeft once the client has gone. In
// HTTP/1.1 it hijacks the connection: net/http copies everything twice, splits what is
// longer than a few kilobytes into several writes, and needs a deadline for each.
func openFrameWriter(w http.ResponseWriter, r *http.Request, stalledTimeout time.Duration, clientLeft func()) (frameWriter, error) {
	if r.Method != http.MethodHead && r.ProtoMajor == 1 && r.ProtoAtLeast(1, 1) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			return openHijackedConn(conn, w.Header(), stalledTimeout, clientLeft)
		}
	}
	f := &responseFrames{w: w, control: http.NewResponseController(w), request: r.Context(), stalledTimeout: stalledTimeout}
	f.stopWatching = context.AfterFunc(f.request, clientLeft)
	w.WriteHeader(http.StatusOK)
	return f, f.flush()
}

// maxPiece is how much of a response is written with one deadline: the socket must take it
// within Config.StalledTimeout. It is small, so that a client that reads slowly is not
// taken for one that does not read.
const maxPiece = 8 << 10

// responseFrames writes frames to a response of net/http.
type responseFrames struct {
	w              http.ResponseWriter
	control        *http.ResponseController
	request        context.Context
	stopWatching   func() bool // stops the call of clientLeft
	stalledTimeout time.Duration

	mu        sync.Mutex
	shortened bool
	finished  bool
}

func (f *responseFrames) clientGone() bool { return f.request.Err() != nil }

func (f *responseFrames) writeFrame(frame []byte) error {
	for b := frame[frameHead:]; len(b) > 0; {
		n := min(len(b), maxPiece)
		if err := f.setDeadline(f.stalledTimeout); err != nil {
			return err
		}
		if _, err := f.w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return f.flush()
}

func (f *responseFrames) flush() error {
	if err := f.setDeadline(f.stalledTimeout); err != nil {
		return err
	}
	if err := f.control.Flush(); err != nil {
		return err
	}
	// In HTTP/2 the deadline is for the whole stream, and would reset it while it is idle.
	return f.setDeadline(0)
}

// setDeadline gives the next write d from now; zero: no deadline.
func (f *responseFrames) setDeadline(d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shortened {
		d = finalWriteTimeout
	}
	if d == 0 {
		return f.control.SetWriteDeadline(time.Time{})
	}
	return f.control.SetWriteDeadline(time.Now().Add(d))
}

func (f *responseFrames) shortenDeadlines() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shortened = true
	if !f.finished {
		_ = f.control.SetWriteDeadline(time.Now().Add(finalWriteTimeout))
	}
}

// abort does nothing: http.Server.Close breaks the response off.
func (f *responseFrames) abort() {}

// finish sets the deadline for what net/http writes at the end of the response. After the
// handler has returned the controller must not be used.
func (f *responseFrames) finish(bool) {
	f.stopWatching()
	_ = f.setDeadline(f.stalledTimeout)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finished = true
}
