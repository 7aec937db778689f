package frames

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// hijackedConn writes frames to a connection that was taken from net/http, as a response
// of HTTP/1.1: each frame is a chunk, and one write to the socket.
type hijackedConn struct {
	conn           net.Conn
	stalledTimeout time.Duration
	disconnected   atomic.Bool
	readerDone     chan struct{} // closed when the goroutine that reads has ended

	mu        sync.Mutex
	deadline  time.Time // the write deadline of conn
	shortened bool
}

func openHijackedConn(conn net.Conn, header http.Header, stalledTimeout time.Duration, clientLeft func()) (*hijackedConn, error) {
	c := &hijackedConn{conn: conn, stalledTimeout: stalledTimeout, readerDone: make(chan struct{})}
	go func() {
		c.awaitDisconnect()
		c.disconnected.Store(true)
		clientLeft()
		close(c.readerDone)
	}()
	return c, c.write(streamHeader(header))
}

// maxIgnoredInput is more than a client of a stream ever sends, and little enough to be
// read in small pieces.
const maxIgnoredInput = 4 << 10

// awaitDisconnect returns when the client has gone. It discards what the client still
// sends, because the connection ends with the stream. The buffer is small: there are many
// streams, and hardly any client sends anything. A client that goes on sending would cost
// time, and counts as gone.
func (c *hijackedConn) awaitDisconnect() {
	var buffer [16]byte
	for read := 0; read < maxIgnoredInput; {
		n, err := c.conn.Read(buffer[:])
		if err != nil {
			return
		}
		read += n
	}
}

func (c *hijackedConn) ClientGone() bool { return c.disconnected.Load() }

func (c *hijackedConn) Send(frame []byte) error {
	const digits = "0123456789abcdef"
	length := len(frame) - Head
	for i := range 4 {
		frame[i] = digits[length>>(12-4*i)&15]
	}
	frame[4], frame[5] = '\r', '\n'
	return c.write(append(frame, "\r\n"...))
}

// write returns os.ErrDeadlineExceeded when the socket took nothing for stalledTimeout,
// and still nothing when write tried once more after that: if the whole machine stood
// still, that time says nothing about the client.
//
// A deadline is a timer of the runtime, and costs time to set. So write sets one only now
// and then, shorter than stalledTimeout, and decides itself whether the client is stalled.
func (c *hijackedConn) write(b []byte) error {
	progress := time.Now()
	for tried := progress; ; tried = time.Now() {
		c.extendDeadline(tried)
		n, err := c.conn.Write(b)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		b = b[n:]
		switch {
		case c.isShortened() || n == 0 && tried.Sub(progress) >= c.stalledTimeout:
			return err
		case n > 0:
			progress = time.Now()
		}
	}
}

// extendDeadline sets the deadline of a write that begins now to a small part of
// stalledTimeout, if little is left of the one that is set. The part is small because
// write learns only at its end that the socket took something, and not when. And a full
// socket on Linux takes a little more when it is tried again.
//
// A shortened deadline is renewed for each write: on a busy machine the goroutine of a
// stream may run for the first time long after the server began to close.
func (c *hijackedConn) extendDeadline(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.shortened:
		c.deadline = now.Add(finalWriteTimeout)
	case c.deadline.Sub(now) < c.stalledTimeout/128:
		c.deadline = now.Add(c.stalledTimeout / 64)
	default:
		return
	}
	_ = c.conn.SetWriteDeadline(c.deadline) // fails on a closed connection, and so will the write
}

func (c *hijackedConn) isShortened() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shortened
}

func (c *hijackedConn) ShortenDeadlines() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shortened = true
	_ = c.conn.SetWriteDeadline(time.Now().Add(finalWriteTimeout))
}

func (c *hijackedConn) Abort() { _ = c.conn.Close() }

func (c *hijackedConn) Hijacked() bool { return true }

func (c *hijackedConn) Finish(whole bool) {
	if !whole || c.write([]byte("0\r\n\r\n")) != nil {
		c.discardUnsent()
	}
	c.Abort()
	<-c.readerDone
}

// discardUnsent makes Abort discard what the client has not received. The kernel would
// keep that for ever for a client that is there and reads nothing.
func (c *hijackedConn) discardUnsent() {
	if conn, ok := c.conn.(interface{ SetLinger(sec int) error }); ok {
		_ = conn.SetLinger(0) // fails on a closed connection, for which nothing is kept
	}
}

// streamHeader encodes what net/http would send, and that the connection ends with the
// response.
func streamHeader(header http.Header) []byte {
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
