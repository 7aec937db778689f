// Package lean is an HTTP/1.1 client with very low overhead. The load generator
// shares the processors with the servers that it measures, so whatever net/http's
// client used would be missing for them. It writes prepared requests to one
// connection, reads only the parts of an answer that must be checked, and supports
// neither redirects nor pipelining.
package lean

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"
)

// Conn sends one request at a time, and has one caller at a time.
type Conn struct {
	// Timeout limits each request; zero means no limit.
	Timeout time.Duration

	conn   net.Conn
	reader *bufio.Reader
}

// Answer is what is kept of an answer whose body is discarded.
type Answer struct {
	Revision int64 // of the registry; 0 if the answer names none
	Length   int   // of the body
}

// StatusError is an answer with a status other than 200 and 201. The connection stays usable.
type StatusError struct{ Line string }

func (e StatusError) Error() string { return "answer: " + e.Line }

// Dial connects to an address. buffer is the size of the read buffer.
func Dial(address string, buffer int) (*Conn, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &Conn{conn: c, reader: bufio.NewReaderSize(c, buffer)}, nil
}

// Close closes the connection, which unblocks a pending call.
func (c *Conn) Close() { _ = c.conn.Close() }

// Do sends a request. It fails unless the body of the answer begins with begins.
func (c *Conn) Do(request, begins []byte) (Answer, error) {
	h, err := c.send(request)
	if err != nil {
		return Answer{}, err
	}
	if h.length < 0 {
		return Answer{}, errors.New("the answer has no Content-Length")
	}
	answer := Answer{Revision: h.revision, Length: h.length}
	var wrong error
	if h.fault != "" {
		wrong = StatusError{Line: h.fault}
	} else if got, err := c.reader.Peek(min(len(begins), h.length)); err != nil {
		return answer, err
	} else if !bytes.Equal(got, begins) {
		wrong = fmt.Errorf("the answer begins with %q, not %q", got, begins)
	}
	if _, err := c.reader.Discard(h.length); err != nil {
		return answer, err
	}
	return answer, wrong
}

// Fetch is Do, but returns the body instead of checking it.
func (c *Conn) Fetch(request []byte) ([]byte, error) {
	h, err := c.send(request)
	if err != nil {
		return nil, err
	}
	body := make([]byte, max(h.length, 0))
	if _, err := io.ReadFull(c.reader, body); err != nil {
		return nil, err
	}
	if h.fault != "" {
		return body, StatusError{Line: h.fault}
	}
	return body, nil
}

// Stream sends a request and returns the body of an endless answer.
func (c *Conn) Stream(request []byte) (io.Reader, error) {
	h, err := c.send(request)
	switch {
	case err != nil:
		return nil, err
	case h.fault != "":
		return nil, StatusError{Line: h.fault}
	case h.chunked:
		return httputil.NewChunkedReader(c.reader), nil
	}
	return c.reader, nil
}

type head struct {
	fault    string // the status line of a refusal
	length   int    // -1 if none is given
	revision int64
	chunked  bool
}

func (c *Conn) send(request []byte) (head, error) {
	if c.Timeout > 0 {
		if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
			return head{}, err
		}
	}
	if _, err := c.conn.Write(request); err != nil {
		return head{}, err
	}
	return c.head()
}

var (
	ok       = []byte("HTTP/1.1 200")
	created  = []byte("HTTP/1.1 201")
	length   = []byte("Content-Length: ")
	revision = []byte("Nodesmetadata-Revision: ")
	chunked  = []byte("Transfer-Encoding: chunked")
)

func (c *Conn) head() (head, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return head{}, err
	}
	h := head{length: -1}
	if !bytes.HasPrefix(line, ok) && !bytes.HasPrefix(line, created) {
		h.fault = string(bytes.TrimSpace(line))
	}
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return head{}, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(line) == 0:
			return h, nil
		case bytes.HasPrefix(line, length):
			n, err := number(line[len(length):])
			if err != nil {
				return head{}, err
			}
			h.length = int(n)
		case bytes.HasPrefix(line, revision):
			if h.revision, err = number(line[len(revision):]); err != nil {
				return head{}, err
			}
		case bytes.Equal(line, chunked):
			h.chunked = true
		}
	}
}

func number(text []byte) (int64, error) { return strconv.ParseInt(string(text), 10, 64) }
