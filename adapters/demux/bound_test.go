package demux_test

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// pair holds both ends of a connection that was handed over.
type pair struct{ client, server net.Conn }

func connected(t *testing.T, address string, first byte, lane *demux.Lane) pair {
	t.Helper()
	client := dial(t, address, first)
	return pair{client, accept(t, lane)}
}

func TestAConnectionOverTheLimitEvictsTheOldest(t *testing.T) {
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			port, lane := open(t, demux.Config{Address: address}, lanes{'a': {MaxOpen: 2}})
			first := connected(t, port.Addr().String(), 'a', lane['a'])
			second := connected(t, port.Addr().String(), 'a', lane['a'])
			third := connected(t, port.Addr().String(), 'a', lane['a'])
			expectClosed(t, first.client)
			if _, err := first.server.Read(make([]byte, 1)); err == nil {
				t.Error("the owner of the evicted connection can still read")
			}
			_ = first.server.Close() // must not free a second place
			talk(t, second.client, second.server)
			talk(t, third.client, third.server)
			want := demux.LaneStats{HandedOver: 3, Open: 2, Evicted: 1}
			if got := port.Stats().Lanes['a']; got != want {
				t.Errorf("lane stats = %+v, want %+v", got, want)
			}
		})
	}
}

func TestCloseFreesOnePlaceOnce(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {MaxOpen: 2}})
	first := connected(t, port.Addr().String(), 'a', lane['a'])
	second := connected(t, port.Addr().String(), 'a', lane['a'])
	if err := second.server.Close(); err != nil {
		t.Fatal(err)
	}
	_ = second.server.Close()
	third := connected(t, port.Addr().String(), 'a', lane['a'])
	talk(t, first.client, first.server)
	talk(t, third.client, third.server)
	connected(t, port.Addr().String(), 'a', lane['a'])
	expectClosed(t, first.client)
	want := demux.LaneStats{HandedOver: 4, Open: 2, Evicted: 1}
	if got := port.Stats().Lanes['a']; got != want {
		t.Errorf("lane stats = %+v, want %+v", got, want)
	}
}

func TestTheSourceWithTheMostOpenConnectionsIsEvicted(t *testing.T) {
	port, lane := open(t, demux.Config{Address: ":0"}, lanes{'a': {MaxOpen: 4}})
	few, many := addresses(t, port)
	modest := connected(t, few, 'a', lane['a']) // the oldest of all
	var greedy []pair
	for range 3 {
		greedy = append(greedy, connected(t, many, 'a', lane['a']))
	}
	latest := connected(t, few, 'a', lane['a'])
	expectClosed(t, greedy[0].client)
	for _, survivor := range []pair{modest, greedy[1], greedy[2], latest} {
		talk(t, survivor.client, survivor.server)
	}
}

// addresses are two of one port that clients reach from different sources.
func addresses(t *testing.T, port *demux.Demux) (ipv6, ipv4 string) {
	t.Helper()
	_, number, err := net.SplitHostPort(port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("::1", number), net.JoinHostPort("127.0.0.1", number)
}

func TestAcceptNeverReturnsAnEvictedConnection(t *testing.T) {
	// More connections arrive than the backlog holds. Evicted connections must not fill
	// it either.
	const come, bound = 10, 2
	port, lane := open(t, demux.Config{}, lanes{'a': {MaxOpen: bound, Backlog: come / 2}})
	var clients []*net.TCPConn
	for n := range come {
		clients = append(clients, dial(t, port.Addr().String(), 'a'))
		eventually(t, "the connection has arrived", func() bool {
			stats := port.Stats()
			return stats.Accepted == uint64(n+1) && stats.Pending == 0 && total(stats) == uint64(n+1)
		})
	}
	if got := port.Stats(); got.Rejected[demux.Overload] != come-bound || got.Rejected[demux.BacklogFull] != 0 {
		t.Errorf("rejected = %v, want %d for overload and none for a full backlog", got.Rejected, come-bound)
	}
	want := demux.LaneStats{Queued: bound, Open: bound}
	if got := port.Stats().Lanes['a']; got != want {
		t.Errorf("lane stats = %+v, want %+v", got, want)
	}
	for _, client := range clients[:come-bound] {
		expectClosed(t, client)
	}
	for _, client := range clients[come-bound:] {
		talk(t, client, accept(t, lane['a']))
	}
}

// A connection may be closed at any time, even by a goroutine that its handshake
// started. Its place must be free then.
func TestAGoroutineOfTheHandshakeMayCloseTheConnection(t *testing.T) {
	const connections = 50
	var running sync.WaitGroup
	port, lane := open(t, demux.Config{}, lanes{'a': {
		MaxOpen: connections,
		Backlog: connections,
		Handshake: func(conn net.Conn) (net.Conn, error) {
			running.Go(func() { _ = conn.Close() })
			return conn, nil
		},
	}})
	for range connections {
		expectClosed(t, dial(t, port.Addr().String(), 'a'))
	}
	eventually(t, "all connections are accounted for", func() bool {
		stats := port.Stats()
		return stats.Pending == 0 && total(stats) == connections
	})
	running.Wait()
	if stats := port.Stats().Lanes['a']; stats.Open != 0 {
		t.Errorf("open connections = %d after all were closed, want none", stats.Open)
	}
	_ = lane['a'].Close()
}

func TestABoundedConnectionHasTheMethodsOfATCPConn(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {MaxOpen: 1}})
	client := dial(t, port.Addr().String(), 'a')
	server, ok := accept(t, lane['a']).(interface {
		net.Conn
		io.ReaderFrom
		io.WriterTo
		syscall.Conn
		CloseRead() error
		CloseWrite() error
		File() (*os.File, error)
		MultipathTCP() (bool, error)
		SetKeepAlive(bool) error
		SetKeepAliveConfig(net.KeepAliveConfig) error
		SetKeepAlivePeriod(time.Duration) error
		SetLinger(int) error
		SetNoDelay(bool) error
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	})
	if !ok {
		t.Fatal("the connection lacks methods of a TCPConn")
	}
	if err := server.SetNoDelay(false); err != nil {
		t.Error(err)
	}
	talk(t, client, server)
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectClosed(t, client)
	send(t, client, "still open")
	expect(t, server, "still open")
}
