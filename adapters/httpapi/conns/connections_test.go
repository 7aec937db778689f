package conns_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// port is a tracked listener, from which a goroutine accepts until the test ends.
type port struct {
	*conns.Tracker
	address            string
	accepted           chan net.Conn
	refused, displaced chan struct{}
	log                bytes.Buffer // must be read only after a connection was received from accepted
}

func listen(t *testing.T, maxOpen, maxPending int) *port {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{
		address:  tcp.Addr().String(),
		accepted: make(chan net.Conn),
		refused:  make(chan struct{}, 100), displaced: make(chan struct{}, 100),
	}
	p.Tracker = conns.New(conns.Config{
		MaxOpen:      maxOpen,
		MaxPending:   maxPending,
		PendingGrace: pendingGrace,
		Refused:      func() { p.refused <- struct{}{} },
		Displaced:    func() { p.displaced <- struct{}{} },
		Logger:       slog.New(slog.NewTextHandler(&p.log, nil)),
	})
	listener := p.Listener(tcp.(*net.TCPListener))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			p.accepted <- conn
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-stopped
	})
	return p
}

// dial returns the client's end of a new connection.
func (p *port) dial(t *testing.T) net.Conn {
	t.Helper()
	client, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return client
}

// connect returns both ends of a new connection, which must be accepted.
func (p *port) connect(t *testing.T) (client, conn net.Conn) {
	t.Helper()
	client = p.dial(t)
	return client, receive(t, p.accepted, "the connection was not accepted")
}

func receive[T any](t *testing.T, from <-chan T, otherwise string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal(otherwise)
		panic("unreachable")
	}
}

func (p *port) mustRefuse(t *testing.T) {
	t.Helper()
	client := p.dial(t)
	receive(t, p.refused, "the connection over the limit was not refused")
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read from a refused connection = %v, want its end", err)
	}
}

func TestAConnectionOverTheLimitIsClosedAtOnce(t *testing.T) {
	const most = 20
	p := listen(t, most, 100)
	var open []net.Conn
	connect := func() {
		_, conn := p.connect(t)
		open = append(open, conn)
	}
	closeOne := func() {
		_ = open[0].Close()
		_ = open[0].Close() // a connection may be closed twice, and counts once
		open = open[1:]
	}
	for range 2 { // the second time as the first
		for len(open) < most {
			connect()
		}
		p.mustRefuse(t)
		p.mustRefuse(t)
		for range 2 { // room for one connection is not yet room
			closeOne()
			connect()
			p.mustRefuse(t)
		}
		for len(open) > most-most/10 {
			closeOne()
		}
		connect()
		if log := p.log.String(); strings.Count(log, "connections are refused") != 1 || strings.Contains(log, "taken again") {
			t.Errorf("log = %s, want the refusal once, and nothing else", log)
		}
		for range 2 {
			closeOne()
		}
		if log := p.log.String(); strings.Count(log, "connections are taken again") != 1 || strings.Count(log, "level=") != 2 {
			t.Errorf("log = %s, want the refusal and its end once each", log)
		}
		if remembered := p.Remembered(); remembered != len(open) {
			t.Errorf("connections remembered = %d, want %d, as many as are open", remembered, len(open))
		}
		p.log.Reset()
	}
}

func TestWithoutALimitEveryConnectionIsAccepted(t *testing.T) {
	p := listen(t, 0, 100)
	for range 3 {
		p.connect(t)
	}
}

// A connection is displaced only when another one has come.
func TestAnAcceptedConnectionTakesThePlaceOfThePendingOne(t *testing.T) {
	p := listen(t, 0, 1)
	first, conn := p.connect(t)
	p.ConnContext(t.Context(), conn)
	if err := first.SetReadDeadline(time.Now().Add(pendingGrace * 3 / 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read from a pending connection = %v, want the deadline of the test", err)
	}
	p.connect(t)
	receive(t, p.displaced, "no connection was displaced")
	if err := first.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read from the displaced connection = %v, want EOF", err)
	}
}

// The time that the server has to close is over, so that there is nothing to wait for.
func TestEachWriteOnAConnectionMustEndOnceTheServerCloses(t *testing.T) {
	p := listen(t, 0, 100)
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	unread, stuck := p.connect(t)
	writing := make(chan error, 1)
	go func() {
		_, err := stuck.Write(make([]byte, 64<<20)) // more than the buffers of two sockets
		writing <- err
	}()
	if _, err := unread.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, hijacked := p.connect(t)
	p.ConnState(hijacked, http.StateHijacked)
	_, active := p.connect(t)
	p.ConnState(active, http.StateActive)
	gone, closed := p.connect(t)
	_, _ = gone.Close(), closed.Close()

	write := func(conn net.Conn) error {
		_, err := conn.Write([]byte("x"))
		return err
	}
	if err := errors.Join(write(hijacked), write(active)); err != nil {
		t.Errorf("Write before the server closes = %v, want success", err)
	}
	p.BeginShutdown(over)
	if err := receive(t, writing, "the current write does not end"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the current write ended with %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if err := active.SetWriteDeadline(time.Now().Add(patience)); err != nil { // as net/http does for each request
		t.Fatal(err)
	}
	if err := write(active); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a later write ended with %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if err := write(hijacked); err != nil {
		t.Errorf("Write on a connection that is its owner's = %v, want success", err)
	}
}
