package peerapi_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/ports"
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

func TestCloseOfAClientClosesTheConnectionsThatItKept(t *testing.T) {
	i := start(t, "127.0.0.1:0")
	c := client(t)
	if _, err := c.Identify(within(t, 5*time.Second), i.address()); err != nil {
		t.Fatal(err)
	}
	open := func() int { return i.demux.Stats().Lanes[peerapi.Lane].Open }
	if open() != 1 {
		t.Fatalf("%d connections are open", open())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// By itself it keeps them for a minute.
	for deadline := time.Now().Add(30 * time.Second); open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the connection stays open")
		}
	}
}

// stuck is a handshake in which nobody answers: it ends when its connection is closed. It
// looks for that again and again, because the clock of a test does not go on while the
// network is waited for.
func stuck(begun chan<- struct{}) func(net.Conn) error {
	return func(conn net.Conn) error {
		close(begun)
		for conn.SetDeadline(time.Time{}) == nil {
			time.Sleep(time.Millisecond)
		}
		return net.ErrClosed
	}
}

// A caller that waits for a second must learn that it was the proof that took so long.
func TestAProofEndsBeforeItsCallerGivesUp(t *testing.T) {
	address := impostor(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	synctest.Test(t, func(t *testing.T) {
		c := peerapi.NewClient(nil)
		c.Handshake(stuck(make(chan struct{})))
		_, err := c.Identify(within(t, time.Second), address)
		if err == nil || !strings.Contains(err.Error(), "prove the raft secret") {
			t.Errorf("error = %v, want that of the proof", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseOfAClientDoesNotWaitUntilAProofGivesUp(t *testing.T) {
	address := impostor(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	synctest.Test(t, func(t *testing.T) {
		c := peerapi.NewClient(nil)
		begun := make(chan struct{})
		c.Handshake(stuck(begun))
		failed := make(chan error, 1)
		go func() {
			_, err := c.Identify(t.Context(), address)
			failed <- err
		}()
		<-begun
		began := time.Now()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("Close took %v, want at most 100ms", took)
		}
		if err := <-failed; !errors.Is(err, ports.ErrClosed) {
			t.Errorf("error = %v, want ErrClosed", err)
		}
	})
}

func TestCloseOfAClientWaitsForItsDials(t *testing.T) {
	address := impostor(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	synctest.Test(t, func(t *testing.T) {
		c := peerapi.NewClient(nil)
		begun, release := make(chan struct{}), make(chan struct{})
		c.Handshake(func(net.Conn) error {
			close(begun)
			<-release
			return nil
		})
		failed := make(chan error, 1)
		go func() {
			_, err := c.Identify(t.Context(), address)
			failed <- err
		}()
		<-begun
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("Close returned before the dial ended")
		}
		close(release)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, ports.ErrClosed) {
			t.Errorf("error = %v, want %v", err, ports.ErrClosed)
		}
	})
}

func TestCloseBeforeOpenClosesTheListener(t *testing.T) {
	lane := newPipes()
	server, err := peerapi.New(peerapi.Config{Listener: lane, Self: &self{identity: someone}, ReadIndexer: &progress{}, Local: members{}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := server.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-lane.closed:
	default:
		t.Error("the listener is open after Close")
	}
}
