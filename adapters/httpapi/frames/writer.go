// Package frames sends a response that has no end in sight, to a client that may stop
// reading. Each frame is sent at once, and a client whose socket takes nothing for some
// time is cut off. A hijackedConn, which is the connection itself, sends in HTTP/1.1,
// otherwise responseFrames, a response of net/http.
//
// It never looks into a frame, and keeps none: whoever sends one waits until the socket
// has taken it.
package frames

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Writer sends the frames of one response to its client. All methods but ShortenDeadlines
// and Abort are for one goroutine.
type Writer interface {
	// Send sends all of frame before it returns, at most 64 KiB. frame begins with Head bytes
	// that are not sent, and is copied unless its capacity leaves Tail bytes behind it; Send
	// may overwrite both. The error is os.ErrDeadlineExceeded if the client is cut off. After
	// an error the client may have a part of frame, and nothing more is to be sent.
	Send(frame []byte) error
	// ShortenDeadlines gives the current write, and each later one, a second.
	ShortenDeadlines()
	// Abort breaks the response off. If it is not hijacked, http.Server.Close does.
	Abort()
	// ClientGone reports whether the client has closed the connection or the request.
	ClientGone() bool
	// Hijacked reports whether the connection was taken from net/http. Then the Writer
	// outlives its handler; otherwise Finish must be called before that returns.
	Hijacked() bool
	// Finish is called once. Only ShortenDeadlines and Abort may be called after it. A
	// response that is not whole is broken off: nothing more is sent, and its client can
	// tell.
	Finish(whole bool)
}

// Head and Tail are how many bytes a frame has before and behind what is sent, for the
// chunked coding of HTTP/1.1: the length in four digits, and the end of the line.
const (
	Head = len("ffff\r\n")
	Tail = len("\r\n")
)

// MaxPiece is how much of a response of net/http is written with one deadline: the socket
// must take it within that time. It is small, so that a client that reads slowly is not
// taken for one that does not read.
const MaxPiece = 8 << 10

// finalWriteTimeout is how long each write may take once the deadlines are shortened: a
// client that does not read must not hold up the end of the server.
const finalWriteTimeout = time.Second

// Open sends the header of w, and calls clientLeft, from another goroutine, once the client
// has gone. The client is cut off when its socket takes nothing for stalledTimeout. There is
// a Writer to be finished also if there is an error.
//
// In HTTP/1.1 Open hijacks the connection: net/http copies everything twice, splits what is
// longer than a few kilobytes into several writes, and needs a deadline for each.
func Open(w http.ResponseWriter, r *http.Request, stalledTimeout time.Duration, clientLeft func()) (Writer, error) {
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

func (f *responseFrames) ClientGone() bool { return f.request.Err() != nil }

func (f *responseFrames) Send(frame []byte) error {
	for b := frame[Head:]; len(b) > 0; {
		n := min(len(b), MaxPiece)
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

func (f *responseFrames) ShortenDeadlines() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shortened = true
	if !f.finished {
		_ = f.control.SetWriteDeadline(time.Now().Add(finalWriteTimeout))
	}
}

// Abort does nothing: http.Server.Close breaks the response off.
func (f *responseFrames) Abort() {}

func (f *responseFrames) Hijacked() bool { return false }

// Finish sets the deadline for what net/http writes at the end of the response. After the
// handler has returned the controller must not be used.
func (f *responseFrames) Finish(bool) {
	f.stopWatching()
	_ = f.setDeadline(f.stalledTimeout)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finished = true
}
