package preface

import (
	"fmt"
	"io"
	"net"
)

// AcceptWithout is for who serves Questions and has no secret. Whoever begins with a
// preface is told that there is none here; others said the first byte of a question,
// which the connection that is given back begins with. The caller bounds it, as
// Accept.
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

// unread is a connection of which first is to be read again.
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
