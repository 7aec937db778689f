package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
	"testing"
)

// conn is an HTTP/1.1 client that costs next to nothing, so that the load takes
// as little as possible of the processors from the servers. It takes no answer
// but those with a Content-Length.
type conn struct {
	net.Conn
	reader *bufio.Reader
}

func dial(tb testing.TB, address string) *conn {
	tb.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	return &conn{Conn: c, reader: bufio.NewReaderSize(c, 64<<10)}
}

func (c *conn) close() { _ = c.Conn.Close() }

var contentLength = []byte("Content-Length: ")

// do sends a request and reads the answer, which must be a 200 or a 201.
func (c *conn) do(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) && !bytes.HasPrefix(line, []byte("HTTP/1.1 201")) {
		return fmt.Errorf("answer: %s", bytes.TrimSpace(line))
	}
	length := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if bytes.HasPrefix(line, contentLength) {
			if length, err = strconv.Atoi(string(line[len(contentLength):])); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("the answer has no Content-Length")
	}
	_, err = c.reader.Discard(length)
	return err
}
