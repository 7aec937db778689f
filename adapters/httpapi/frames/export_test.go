package frames

import (
	"net"
	"net/http"
	"time"
)

// OpenHijackedConn opens a Writer on a connection of a test.
func OpenHijackedConn(conn net.Conn, header http.Header, stalled time.Duration, clientLeft func()) (Writer, error) {
	return openHijackedConn(conn, header, stalled, clientLeft)
}
