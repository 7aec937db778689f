package preface

import (
	"fmt"
	"io"
	"net"
)

// AcceptWithout is Accept for a side that serves Questions and has no secret. A dialer that
// begins with a preface is refused, because there is no secret here. For any other it
// returns a connection on which the first byte can be read again. The caller must bound it
// in time, as for Accept.
func AcceptWithout(raftID string, conn net.Conn) (net.Conn, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil, fmt.Errorf("preface: %w", err)
	}
	whole := &unread{conn, first}
	if first[0] != prefaceVersion {
		return whole, nil
	}
	p := Preface{Purpose: Questions, RaftID: raftID}
	return whole, p.Accept(whole)
}

// unread is a connection with bytes that were read already, and are read again first.
type unread struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (u *unread) Read(b []byte) (int, error) {
	if len(u.first) == 0 {
		return u.Conn.Read(b)
	}
	n := copy(b, u.first)
	u.first = u.first[n:]
	return n, nil
}
