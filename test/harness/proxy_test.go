package harness_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// echo starts a server that sends back what it receives, until t ends.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends a letter, and reports whether it is echoed within d.
func ask(t *testing.T, conn net.Conn, letter string, d time.Duration) bool {
	t.Helper()
	if _, err := conn.Write([]byte(letter)); err != nil {
		t.Fatal(err)
	}
	return hear(t, conn, letter, d)
}

func hear(t *testing.T, conn net.Conn, letter string, d time.Duration) bool {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(d))
	got := make([]byte, len(letter))
	if _, err := io.ReadFull(conn, got); err != nil {
		return false
	}
	if string(got) != letter {
		t.Fatalf("echo = %q, want %q", got, letter)
	}
	return true
}

const (
	soon = 10 * time.Second
	late = 50 * time.Millisecond
	// longer is longer than any request without a wait takes.
	longer = 20 * time.Second
)

func TestAProxyDelaysCutsAndResetsConnections(t *testing.T) {
	proxy := harness.NewProxy(t, "127.0.0.1", echo(t))
	conn := dial(t, proxy.Address())
	if !ask(t, conn, "a", soon) {
		t.Fatal("no echo through an undisturbed proxy")
	}
	for name, direction := range map[string]harness.Direction{"forth": harness.Forth, "back": harness.Back} {
		proxy.Delay(direction, late)
		began := time.Now()
		if !ask(t, conn, "b", soon) || time.Since(began) < late {
			t.Errorf("%s: echo with a delay after %v, want at least %v", name, time.Since(began), late)
		}
		proxy.Delay(direction, 0)
		proxy.Cut(direction)
		if ask(t, conn, "c", late) {
			t.Errorf("%s: data passed a cut", name)
		}
		proxy.Heal(direction)
		if !hear(t, conn, "c", soon) {
			t.Errorf("%s: data sent during a cut did not arrive after it", name)
		}
	}
	proxy.Reset()
	_ = conn.SetReadDeadline(time.Now().Add(soon))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("read after a reset: error = %v, want the end of the connection", err)
	}
	proxy.Cut()
	other := dial(t, proxy.Address())
	if ask(t, other, "d", late) {
		t.Error("a new connection passed a cut")
	}
	proxy.Heal()
	if !hear(t, other, "d", soon) {
		t.Error("a connection made during a cut did not recover")
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}
