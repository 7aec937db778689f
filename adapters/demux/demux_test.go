package demux_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

func TestTheFirstByteNamesTheLane(t *testing.T) {
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			port, lane := open(t, demux.Config{Address: address}, lanes{'a': {}, 0: {}, 255: {}})
			for _, first := range []byte{'a', 0, 255, 'a'} {
				client := dial(t, port.Addr().String(), first)
				server := accept(t, lane[first])
				if _, ok := server.(*net.TCPConn); !ok {
					t.Errorf("connection of lane %#02x is a %T, want a TCPConn", first, server)
				}
				if server.RemoteAddr().String() != client.LocalAddr().String() {
					t.Errorf("remote address = %v, want %v", server.RemoteAddr(), client.LocalAddr())
				}
				talk(t, client, server)
			}
		})
	}
}

func TestOnlyTheFirstByteIsTaken(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}})
	client := connect(t, port.Addr().String())
	send(t, client, "aardvark")
	expect(t, accept(t, lane['a']), "ardvark")
}

func TestAFirstByteMayComeLate(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}})
	client := connect(t, port.Addr().String())
	awaitPending(t, port, 1)
	send(t, client, "a")
	talk(t, client, accept(t, lane['a']))
}

func TestASilentConnectionIsClosedAfterTheTimeout(t *testing.T) {
	const bound = 50 * time.Millisecond
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			port, _ := open(t, demux.Config{Address: address, HandshakeTimeout: bound}, lanes{'a': {}})
			began := time.Now()
			expectClosed(t, connect(t, port.Addr().String()))
			if took := time.Since(began); took < bound || took > bound+2*time.Second {
				t.Errorf("a silent connection was closed after %v, want %v", took, bound)
			}
			awaitRejected(t, port, demux.Silent, 1)
		})
	}
}

func TestConnectionsWithoutALaneAreClosedAndCounted(t *testing.T) {
	tests := map[string]struct {
		do     func(t *testing.T, conn *net.TCPConn)
		reason demux.Reason
		closed bool
	}{
		"an unknown first byte": {
			do:     func(t *testing.T, conn *net.TCPConn) { send(t, conn, "z") },
			reason: demux.UnknownLane,
			closed: true,
		},
		"an unknown first byte and much data": {
			do: func(t *testing.T, conn *net.TCPConn) {
				_, _ = conn.Write(bytes.Repeat([]byte("z"), 1<<20)) // may be cut off
			},
			reason: demux.UnknownLane,
			closed: true,
		},
		"an end without a first byte": {
			do: func(t *testing.T, conn *net.TCPConn) {
				if err := conn.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			},
			reason: demux.Disconnected,
			closed: true,
		},
		"a reset without a first byte": {
			do:     reset,
			reason: demux.Disconnected,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			port, lane := open(t, demux.Config{}, lanes{'a': {}})
			conn := connect(t, port.Addr().String())
			test.do(t, conn)
			if test.closed {
				expectClosed(t, conn)
			}
			awaitRejected(t, port, test.reason, 1)
			talk(t, dial(t, port.Addr().String(), 'a'), accept(t, lane['a']))
		})
	}
}

// reset ends conn with a TCP reset.
func reset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAResetAfterTheFirstByteReachesTheLane(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}})
	reset(t, dial(t, port.Addr().String(), 'a'))
	eventually(t, "the connection is accounted for", func() bool {
		stats := port.Stats()
		return stats.Accepted == 1 && stats.Pending == 0 && total(stats) == 1
	})
	// The system may have dropped the byte with the connection.
	if port.Stats().Rejected[demux.Disconnected] == 0 {
		expectClosed(t, accept(t, lane['a']))
	}
}

func TestALaneWithoutConsumerDoesNotBlockOthers(t *testing.T) {
	const backlog, surplus = 3, 20
	port, lane := open(t, demux.Config{}, lanes{'a': {}, 'i': {Backlog: backlog}})
	var idle []*net.TCPConn
	for n := range backlog {
		idle = append(idle, dial(t, port.Addr().String(), 'i'))
		awaitQueued(t, port, 'i', n+1)
	}
	for range surplus {
		expectClosed(t, dial(t, port.Addr().String(), 'i'))
	}
	awaitRejected(t, port, demux.BacklogFull, surplus)
	talk(t, dial(t, port.Addr().String(), 'a'), accept(t, lane['a']))

	for _, client := range idle { // Accept returns them in the order of their arrival
		talk(t, client, accept(t, lane['i']))
	}
	talk(t, dial(t, port.Addr().String(), 'i'), accept(t, lane['i']))
}

func TestManyConsumersOfALaneShareItsConnections(t *testing.T) {
	const connections, consumers = 200, 8
	port, lane := open(t, demux.Config{}, lanes{'a': {Backlog: connections}})
	taken := make(chan net.Conn, connections)
	for range consumers {
		go func() {
			for {
				conn, err := lane['a'].Accept()
				if err != nil {
					return
				}
				taken <- conn
			}
		}()
	}
	for range connections {
		dial(t, port.Addr().String(), 'a')
	}
	from := make(map[string]bool)
	for range connections {
		select {
		case conn := <-taken:
			from[conn.RemoteAddr().String()] = true
			_ = conn.Close()
		case <-time.After(patience):
			t.Fatalf("connections that arrived = %d, want %d", len(from), connections)
		}
	}
	if len(from) != connections {
		t.Errorf("connections that arrived = %d, want %d", len(from), connections)
	}
}

func TestALargePayloadAndAHalfCloseAreIntact(t *testing.T) {
	const size = 10 << 20
	tests := map[string]demux.LaneConfig{
		"of an ordinary lane":        {},
		"of a lane with a bound":     {MaxOpen: 1},
		"after a handshake":          {Handshake: greeting("hello")},
		"after a wrapping handshake": {Handshake: wrapping(nil)},
		"of a bounded, wrapped lane": {Handshake: wrapping(nil), MaxOpen: 1},
		"with a tiny backlog too":    {Backlog: 1},
	}
	for name, config := range tests {
		t.Run(name, func(t *testing.T) {
			port, lane := open(t, demux.Config{}, lanes{'a': config})
			payload := make([]byte, size)
			chacha := rand.NewChaCha8([32]byte{1})
			_, _ = chacha.Read(payload) // never fails

			client := dial(t, port.Addr().String(), 'a')
			send(t, client, "hello")
			sent := make(chan error, 1)
			go func() {
				_, err := client.Write(payload)
				if err == nil {
					err = client.CloseWrite()
				}
				sent <- err
			}()
			server := accept(t, lane['a'])
			if config.Handshake == nil {
				expect(t, server, "hello")
			}
			hash := sha256.New()
			if n, err := io.Copy(hash, server); n != size || err != nil {
				t.Fatalf("bytes that arrived = %d, %v, want %d", n, err, size)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(payload); !bytes.Equal(hash.Sum(nil), want[:]) {
				t.Error("the bytes that arrived differ from those sent")
			}
			send(t, server, "got it") // the other half is still open
			expect(t, client, "got it")
		})
	}
}
