package demux_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

var errRefused = errors.New("refused")

// greeting is a handshake that wants to read word.
func greeting(word string) func(net.Conn) (net.Conn, error) {
	return func(conn net.Conn) (net.Conn, error) {
		got := make([]byte, len(word))
		if _, err := io.ReadFull(conn, got); err != nil {
			return nil, err
		}
		if string(got) != word {
			return nil, fmt.Errorf("%w: %q", errRefused, got)
		}
		return conn, nil
	}
}

// wrapped is a connection in which a handshake wrapped another.
type wrapped struct {
	net.Conn
	onClose func() // may be nil
}

func (w *wrapped) Close() error {
	if w.onClose != nil {
		w.onClose()
	}
	return w.Conn.Close()
}

// wrapping is a handshake that wants to read hello and returns a *wrapped.
func wrapping(onClose func()) func(net.Conn) (net.Conn, error) {
	return func(conn net.Conn) (net.Conn, error) {
		if _, err := greeting("hello")(conn); err != nil {
			return nil, err
		}
		return &wrapped{conn, onClose}, nil
	}
}

func TestAHandshakeRunsBeforeAccept(t *testing.T) {
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			port, lane := open(t, demux.Config{Address: address}, lanes{'a': {Handshake: greeting("hello")}})
			client := dial(t, port.Addr().String(), 'a')
			send(t, client, "hel")
			awaitPending(t, port, 1)
			send(t, client, "lo and the rest")
			server := accept(t, lane['a'])
			expect(t, server, " and the rest")
			talk(t, client, server)
		})
	}
}

func TestAHandshakeMayAnswer(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {Handshake: func(conn net.Conn) (net.Conn, error) {
		_, err := io.WriteString(conn, "welcome")
		return conn, err
	}}})
	client := dial(t, port.Addr().String(), 'a')
	expect(t, client, "welcome")
	talk(t, client, accept(t, lane['a']))
}

func TestAcceptReturnsWhatTheHandshakeReturned(t *testing.T) {
	for name, bound := range map[string]int{"without a bound": 0, "with a bound": 5} {
		t.Run(name, func(t *testing.T) {
			port, lane := open(t, demux.Config{}, lanes{'a': {Handshake: wrapping(nil), MaxOpen: bound}})
			client := dial(t, port.Addr().String(), 'a')
			send(t, client, "hello")
			server := accept(t, lane['a'])
			if _, ok := server.(*wrapped); !ok {
				t.Fatalf("accepted a %T, want the connection of the handshake", server)
			}
			talk(t, client, server)
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
			expectClosed(t, client)
			if stats := port.Stats().Lanes['a']; stats.Open != 0 {
				t.Errorf("open connections after Close = %d, want none", stats.Open)
			}
		})
	}
}

func TestAHandshakeThatFailsClosesTheConnection(t *testing.T) {
	tests := map[string]struct {
		handshake func(net.Conn) (net.Conn, error)
		reason    demux.Reason
	}{
		"an error": {func(net.Conn) (net.Conn, error) { return nil, errRefused }, demux.HandshakeFailed},
		"an error and a connection": {
			func(conn net.Conn) (net.Conn, error) { return conn, errRefused }, demux.HandshakeFailed},
		"no connection": {func(net.Conn) (net.Conn, error) { return nil, nil }, demux.HandshakeFailed},
		"a connection that it closed": {
			func(conn net.Conn) (net.Conn, error) { return conn, conn.Close() }, demux.HandshakeFailed},
		"a panic":            {func(net.Conn) (net.Conn, error) { panic("a mistake") }, demux.HandshakePanic},
		"a runtime error":    {func(net.Conn) (net.Conn, error) { return net.Conn(nil), net.Conn(nil).Close() }, demux.HandshakePanic},
		"an ended goroutine": {func(net.Conn) (net.Conn, error) { runtime.Goexit(); return nil, nil }, demux.HandshakePanic},
	}
	for name, test := range tests {
		for kind, bound := range map[string]int{"": 0, ", with a bound": 1} {
			t.Run(name+kind, func(t *testing.T) {
				port, lane := open(t, demux.Config{}, lanes{
					'a': {}, 'f': {Handshake: test.handshake, MaxOpen: bound}})
				for n := range uint64(3) {
					expectClosed(t, dial(t, port.Addr().String(), 'f'))
					awaitRejected(t, port, test.reason, n+1)
				}
				if stats := port.Stats(); stats.Pending != 0 || stats.Lanes['f'] != (demux.LaneStats{}) {
					t.Errorf("stats = %+v, want nothing pending", stats)
				}
				talk(t, dial(t, port.Addr().String(), 'a'), accept(t, lane['a']))
			})
		}
	}
}

func TestAHandshakeThatIsTooSlowIsCutOff(t *testing.T) {
	const bound = 50 * time.Millisecond
	tests := map[string]func(net.Conn) (net.Conn, error){
		"a handshake that waits for bytes": greeting("hello"),
		"a handshake that sets a later deadline": func(conn net.Conn) (net.Conn, error) {
			_ = conn.SetDeadline(time.Now().Add(time.Hour))
			return greeting("hello")(conn)
		},
		"a handshake that takes the end of the connection for success": func(conn net.Conn) (net.Conn, error) {
			_, _ = io.Copy(io.Discard, conn)
			return conn, nil
		},
		"a handshake that fails with an error of its own": func(conn net.Conn) (net.Conn, error) {
			_, _ = io.Copy(io.Discard, conn)
			return nil, errRefused
		},
	}
	for name, handshake := range tests {
		t.Run(name, func(t *testing.T) {
			port, _ := open(t, demux.Config{HandshakeTimeout: bound}, lanes{'a': {Handshake: handshake}})
			began := time.Now()
			client := dial(t, port.Addr().String(), 'a')
			_, _ = io.WriteString(client, "hel") // it may be cut off already
			expectClosed(t, client)
			if took := time.Since(began); took < bound || took > bound+2*time.Second {
				t.Errorf("the connection was closed after %v, want %v", took, bound)
			}
			awaitRejected(t, port, demux.HandshakeTimeout, 1)
		})
	}
}

func TestTheTimeoutEndsWithTheHandshake(t *testing.T) {
	const bound = 3 * time.Second
	port, lane := open(t, demux.Config{HandshakeTimeout: bound}, lanes{'a': {Handshake: greeting("hello")}, 's': {}})
	client := dial(t, port.Addr().String(), 'a')
	send(t, client, "hello")
	server := accept(t, lane['a'])
	expectClosed(t, dial(t, port.Addr().String(), 'a')) // the whole timeout has passed
	talk(t, client, server)
}

func TestDeadlinesOfTheHandshakeEndWithIt(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {Handshake: func(conn net.Conn) (net.Conn, error) {
		return conn, conn.SetDeadline(time.Now().Add(-time.Hour))
	}}})
	client := dial(t, port.Addr().String(), 'a')
	talk(t, client, accept(t, lane['a']))
}

// The connection that a handshake returned may hold more than the socket.
func TestAConnectionThatIsNotHandedOverIsClosed(t *testing.T) {
	tests := map[string]struct {
		config demux.Config
		after  func(t *testing.T, port *demux.Demux, lane *demux.Lane)
	}{
		"the handshake took too long": {config: demux.Config{HandshakeTimeout: 20 * time.Millisecond}},
		"the backlog is full": {after: func(t *testing.T, port *demux.Demux, _ *demux.Lane) {
			awaitQueued(t, port, 'a', 1)
			second := dial(t, port.Addr().String(), 'a')
			if err := second.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}},
		"the lane was closed": {after: func(t *testing.T, port *demux.Demux, lane *demux.Lane) {
			awaitQueued(t, port, 'a', 1)
			_ = lane.Close()
		}},
		"the port was closed": {after: func(t *testing.T, port *demux.Demux, _ *demux.Lane) {
			awaitQueued(t, port, 'a', 1)
			_ = port.Close()
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var closed atomic.Int32
			port, lane := open(t, test.config, lanes{'a': {Backlog: 1, Handshake: func(conn net.Conn) (net.Conn, error) {
				_, _ = io.Copy(io.Discard, conn) // until it ends or is closed
				return &wrapped{conn, func() { closed.Add(1) }}, nil
			}}})
			client := dial(t, port.Addr().String(), 'a')
			if test.after != nil {
				if err := client.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				test.after(t, port, lane['a'])
			}
			eventually(t, "the wrapper is closed", func() bool { return closed.Load() == 1 })
		})
	}
}

// Nothing else would report the panic.
func TestAPanicOfAHandshakeThatIsCutOffIsReported(t *testing.T) {
	port, _ := open(t, demux.Config{HandshakeTimeout: time.Millisecond}, lanes{'a': {Handshake: func(conn net.Conn) (net.Conn, error) {
		_, _ = io.Copy(io.Discard, conn)
		panic("a mistake")
	}}})
	expectClosed(t, dial(t, port.Addr().String(), 'a'))
	awaitRejected(t, port, demux.HandshakePanic, 1)
	if n := port.Stats().Rejected[demux.HandshakeTimeout]; n != 0 {
		t.Errorf("connections counted as too slow = %d, want none", n)
	}
}
