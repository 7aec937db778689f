package peerapi_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
)

// pipes is a net.Listener without a network, so that a test has a clock of its own: what
// it waits for takes as long as it is meant to, on any machine.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
	close   func()
}

func newPipes() *pipes {
	p := &pipes{dialled: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialled:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close()
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// says opens a connection and sends text on it.
func (p *pipes) says(t *testing.T, text string) net.Conn {
	t.Helper()
	own, other := net.Pipe()
	p.dialled <- other
	if _, err := io.WriteString(own, text); err != nil {
		t.Fatal(err)
	}
	return own
}

func TestCloseWaitsForAtMostASecond(t *testing.T) {
	const question = "GET /metadata HTTP/1.1\r\nHost: x\r\n"
	tests := map[string]struct {
		said     string
		answered bool
		takes    time.Duration
	}{
		"an idle connection is not waited for":   {question + "\r\n", true, 0},
		"half a request has a second":            {question, false, time.Second},
		"a body that does not come has a second": {question + "Content-Length: 9\r\n\r\n", false, time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lane := newPipes()
				server, err := peerapi.New(peerapi.Config{Listener: lane, Self: &self{identity: someone}, ReadIndexer: &progress{}, Local: members{}})
				if err == nil {
					err = server.Open(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				said := make(chan string)
				conn := lane.says(t, test.said)
				go func() {
					all, _ := io.ReadAll(conn)
					said <- string(all)
				}()
				synctest.Wait() // until the server has nothing more to do but to wait
				began := time.Now()
				if err := server.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != test.takes {
					t.Errorf("Close took %v, want %v", took, test.takes)
				}
				if answer := <-said; strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") != test.answered {
					t.Errorf("answer = %q, want success: %v", answer, test.answered)
				}
			})
		})
	}
}
