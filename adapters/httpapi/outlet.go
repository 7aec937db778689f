package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// outlet is where what a sink sends goes. All but hurry and cut is for one
// goroutine.
type outlet interface {
	// send sends a frame, all of it, before it returns.
	send(frame []byte) error
	// hurry leaves little time for whatever is sent from now on, also for what is
	// being sent now.
	hurry()
	// cut breaks the response off.
	cut()
	// gone reports whether the client has gone.
	gone() bool
	// end is called once, after all else but cut and hurry. A response that is not
	// whole is broken off: no more of it is sent, and its client can tell.
	end(whole bool)
}

// A frame is what is sent at once, with room around it for what HTTP/1.1 wants
// there: the length in front, in four digits, and the end of the line behind it.
const (
	frameHead = len("ffff\r\n")
	frameTail = len("\r\n")
)

// openOutlet sends the header that w has, and calls left once the client has gone. In HTTP/1.1 it takes the connection
// from net/http, which copies all that is sent twice, sends more than a few
// kilobytes piece by piece, and wants a deadline for each.
func openOutlet(w http.ResponseWriter, r *http.Request, stalled time.Duration, left func()) (outlet, error) {
	if r.Method != http.MethodHead && r.ProtoMajor == 1 && r.ProtoAtLeast(1, 1) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			return openWire(conn, w.Header(), stalled, left)
		}
	}
	o := &response{w: w, control: http.NewResponseController(w), request: r.Context(), stalled: stalled}
	o.forget = context.AfterFunc(o.request, left)
	w.WriteHeader(http.StatusOK)
	return o, o.flush()
}

// wire is a response of HTTP/1.1 on a connection of its own: each frame is a
// chunk, and one write to the socket.
type wire struct {
	conn    net.Conn
	stalled time.Duration
	left    atomic.Bool   // the client has gone
	unheard chan struct{} // closed when nobody listens to it any more

	mu      sync.Mutex
	bound   time.Time // the deadline that the connection has
	hurried bool
}

func openWire(conn net.Conn, header http.Header, stalled time.Duration, left func()) (*wire, error) {
	c := &wire{conn: conn, stalled: stalled, unheard: make(chan struct{})}
	go func() {
		c.listen()
		c.left.Store(true)
		left()
		close(c.unheard)
	}()
	return c, c.write(wireHeader(header))
}

// maxHeard is more than a client still says that has a stream, and little enough to be
// heard in small pieces: there are many streams, and hardly any client says anything.
const maxHeard = 4 << 10

// listen returns when the client has gone. What it still says is of no interest: its
// connection ends with the stream. But to listen costs time, so one that goes on talking is
// as good as gone.
func (c *wire) listen() {
	var heard [16]byte
	for said := 0; said < maxHeard; {
		n, err := c.conn.Read(heard[:])
		if err != nil {
			return
		}
		said += n
	}
}

func (c *wire) gone() bool { return c.left.Load() }

func (c *wire) send(frame []byte) error {
	const digits = "0123456789abcdef"
	length := len(frame) - frameHead
	for i := range 4 {
		frame[i] = digits[length>>(12-4*i)&15]
	}
	frame[4], frame[5] = '\r', '\n'
	return c.write(append(frame, "\r\n"...))
}

// write returns os.ErrDeadlineExceeded once the socket took nothing of b for as
// long as it may, and nothing when it was asked again after that: where the machine
// stood still, the time went by and nobody asked. A deadline is a timer of the runtime,
// so it is put off only now and then, and what it means is decided here.
func (c *wire) write(b []byte) error {
	moved := time.Now()
	for asked := moved; ; asked = time.Now() {
		c.extend(asked)
		n, err := c.conn.Write(b)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		b = b[n:]
		switch {
		case c.isHurried() || n == 0 && asked.Sub(moved) >= c.stalled:
			return err
		case n > 0:
			moved = time.Now()
		}
	}
}

// extend gives the socket a part of the time that it has to take something. When in it
// the socket took the last is not known, so the part is small. And a full socket on
// Linux takes a little more when it is asked again.
//
// A hurried wire has farewell for each write, from when it begins: on a busy machine the
// goroutine of a stream may run for the first time long after the server began to close.
func (c *wire) extend(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.hurried:
		c.bound = now.Add(farewell)
	case c.bound.Sub(now) < c.stalled/128:
		c.bound = now.Add(c.stalled / 64)
	default:
		return
	}
	_ = c.conn.SetWriteDeadline(c.bound) // on a closed connection, as the write will say
}

func (c *wire) isHurried() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hurried
}

func (c *wire) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurried = true
	_ = c.conn.SetWriteDeadline(time.Now().Add(farewell))
}

func (c *wire) cut() { _ = c.conn.Close() }

func (c *wire) end(whole bool) {
	if !whole || c.write([]byte("0\r\n\r\n")) != nil {
		c.forget()
	}
	c.cut()
	<-c.unheard
}

// forget has cut drop what was sent and not taken yet. For a client that is there and
// takes nothing the kernel would keep that for ever.
func (c *wire) forget() {
	if conn, is := c.conn.(interface{ SetLinger(sec int) error }); is {
		_ = conn.SetLinger(0) // on a connection that is gone nothing is kept
	}
}

// wireHeader is what net/http would send, and that the connection ends with the
// response.
func wireHeader(header http.Header) []byte {
	b := []byte("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nDate: ")
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	b = append(b, "\r\n"...)
	for name, values := range header {
		for _, value := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, value...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// piece is how much the socket of a response must take within Config.StalledTimeout.
// It is small so that one that takes anything at all is left alone.
const piece = 8 << 10

// response is a response of net/http.
type response struct {
	w       http.ResponseWriter
	control *http.ResponseController
	request context.Context
	forget  func() bool // that the end of the request is of interest
	stalled time.Duration

	mu      sync.Mutex
	hurried bool
	ended   bool
}

func (o *response) gone() bool { return o.request.Err() != nil }

func (o *response) send(frame []byte) error {
	for b := frame[frameHead:]; len(b) > 0; {
		n := min(len(b), piece)
		if err := o.deadline(o.stalled); err != nil {
			return err
		}
		if _, err := o.w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return o.flush()
}

func (o *response) flush() error {
	if err := o.deadline(o.stalled); err != nil {
		return err
	}
	if err := o.control.Flush(); err != nil {
		return err
	}
	// HTTP/2 takes the deadline as one for the whole stream, and resets an idle
	// one when it passes.
	return o.deadline(0)
}

// deadline gives the socket d from now to take something; zero: for ever.
func (o *response) deadline(d time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hurried {
		d = farewell
	}
	if d == 0 {
		return o.control.SetWriteDeadline(time.Time{})
	}
	return o.control.SetWriteDeadline(time.Now().Add(d))
}

func (o *response) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hurried = true
	if !o.ended {
		_ = o.control.SetWriteDeadline(time.Now().Add(farewell))
	}
}

// cut leaves it to net/http, which is closed by force as well.
func (o *response) cut() {}

// end leaves net/http no more time than a frame has for the end of the response.
// After the handler has returned the controller must not be used.
func (o *response) end(bool) {
	o.forget()
	_ = o.deadline(o.stalled)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}
