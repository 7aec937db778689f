package httpapi_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// ask sends a request on a pipe of its own, whose client takes nothing yet.
func (p pipes) ask(t *testing.T, request string) net.Conn {
	t.Helper()
	client, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(client, request+"\r\nHost: h\r\n\r\n") }()
	return client
}

// nothingComes holds that for a while there is nothing for client to take.
func nothingComes(t *testing.T, client net.Conn) {
	t.Helper()
	deadline := func(at time.Time) {
		if err := client.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
	}
	deadline(time.Now().Add(time.Second))
	defer deadline(time.Time{})
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came: %v", n, err)
	}
}

// To encode a large registry takes long, and when many do it side by side raft has to wait
// for all of them.
func TestASnapshotIsEncodedInTurns(t *testing.T) {
	for _, query := range []string{"", "?zone=eu-1a"} {
		t.Run(query, func(t *testing.T) {
			overPipes(t, func(t *testing.T, s *service, listener pipes) {
				s.fill(t, 1000)
				done := s.MakeLists()
				client := listener.ask(t, "GET /nodes/sse"+query+" HTTP/1.1")
				defer client.Close()
				takeUntil(t, client, "\r\n\r\n")
				nothingComes(t, client)
				done()
				takeUntil(t, client, `"part":1`)
				// It is in the middle of a part, and whoever takes it takes his time.
				done = s.MakeLists()
				takeUntil(t, client, "\r\n") // all that was encoded
				nothingComes(t, client)
				done()
				takeUntil(t, client, `"part":3,`)
			})
		})
	}
}
