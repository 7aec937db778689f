// Package frames sends responses of no fixed length, such as streams of events, to clients
// that may stop reading. Each frame is sent at once. A client is cut off if its socket takes
// nothing for some time. In HTTP/1.1 a hijackedConn writes the frames to the connection
// itself; otherwise responseFrames writes them to the response of net/http.
//
// It never looks into a frame, and queues none: Send returns when the socket has taken the
// frame.
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
	// Send sends what follows the first Head bytes of frame, and returns when the socket has
	// taken all of it. frame has at most 64 KiB. Send may overwrite the first Head bytes of
	// frame, and Tail bytes of its capacity behind its end; it copies frame if there are fewer
	// than Tail. The error is os.ErrDeadlineExceeded if the client was cut off. After an error
	// the client may have a part of frame, and nothing more may be sent.
	Send(frame []byte) error
	// ShortenDeadlines gives the current write, and each later one, one second.
	ShortenDeadlines()
	// Abort breaks the response off if the connection is hijacked. Otherwise it does nothing,
	// because http.Server.Close breaks the response off.
	Abort()
	// ClientGone reports whether the client has closed the connection or the request.
	ClientGone() bool
	// Hijacked reports whether the connection was taken from net/http. If it was, the Writer
	// may be used after the handler has returned; if not, Finish must be called before.
	Hijacked() bool
	// Finish ends the response. It must be called once, and only ShortenDeadlines and Abort
	// may be called after it. If whole is false, the response is broken off, so that the
	// client can tell that it is not complete.
	Finish(whole bool)
}

// Head and Tail are how many bytes the chunked coding of HTTP/1.1 adds before and after what
// a frame sends: its length in four digits and the end of the line, and another end of a line.
const (
	Head = len("ffff\r\n")
	Tail = len("\r\n")
)

// MaxPiece is how many bytes of a response of net/http are written with one deadline, by which
// the socket must have taken them. It is small, so that a client that reads slowly is not
// taken for one that does not read.
const MaxPiece = 8 << 10

// finalWriteTimeout is how long each write may take once the deadlines are shortened: a
// client that does not read must not hold up the end of the server.
const finalWriteTimeout = time.Second

// Open sends the header of w. It calls clientLeft, in another goroutine, once the client has
// gone. The client is cut off when its socket takes nothing for stalledTimeout. Open returns a
// Writer, whose Finish must be called, even if it returns an error.
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
