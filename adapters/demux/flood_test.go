package demux_test

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

func TestAFloodOfSilentConnectionsLocksOutNobody(t *testing.T) {
	const (
		strangers = 2000
		dialers   = 20
		visits    = 20
		prompt    = 3 * time.Second
	)
	port, lane := open(t, demux.Config{}, lanes{'a': {}}) // nobody leaves by the bound of time
	address := port.Addr().String()
	before := runtime.NumGoroutine()

	var (
		flood sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	for range dialers {
		flood.Go(func() {
			for range strangers / dialers {
				conn, err := net.DialTimeout("tcp", address, patience)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				conns = append(conns, conn)
				mu.Unlock()
			}
		})
	}
	visit := func() {
		began := time.Now()
		client := dial(t, address, 'a')
		talk(t, client, accept(t, lane['a']))
		if took := time.Since(began); took > prompt {
			t.Errorf("a good client had to wait for %v", took)
		}
	}
	for range visits {
		visit()
	}
	flood.Wait()
	visit()

	eventually(t, "every stranger is in or out", func() bool {
		stats := port.Stats()
		return stats.Accepted == strangers+visits+1 && total(stats) == stats.Accepted
	})
	// A visitor may have pushed out one more stranger, and left its place.
	stats := port.Stats()
	in := uint64(stats.Pending)
	if in < demux.DefaultMaxHandshakes-visits-1 || in > demux.DefaultMaxHandshakes ||
		stats.Rejected[demux.Overload] != strangers-in {
		t.Errorf("%d strangers are in, rejected are %v", in, stats.Rejected)
	}
	if running := runtime.NumGoroutine(); running > before+demux.DefaultMaxHandshakes+dialers {
		t.Errorf("%d goroutines serve strangers", running-before)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	eventually(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= before })
	awaitRejected(t, port, demux.Disconnected, in)
}

func TestTheSourceWithTheMostHandshakesMakesRoom(t *testing.T) {
	port, lane := open(t, demux.Config{Address: ":0", MaxHandshakes: 4}, lanes{'a': {}})
	few, many := addresses(t, port)
	modest := connect(t, few) // the oldest of all
	awaitPending(t, port, 1)
	var greedy []*net.TCPConn
	for range 3 {
		greedy = append(greedy, connect(t, many))
		awaitPending(t, port, 1+len(greedy))
	}
	for n, oldest := range greedy {
		greedy = append(greedy, connect(t, many))
		expectClosed(t, oldest)
		awaitRejected(t, port, demux.Overload, uint64(n+1))
	}
	send(t, modest, "a")
	talk(t, modest, accept(t, lane['a']))
	send(t, greedy[len(greedy)-1], "a")
	talk(t, greedy[len(greedy)-1], accept(t, lane['a']))
}

func TestAHandshakeThatMadeRoomIsCutOff(t *testing.T) {
	port, lane := open(t, demux.Config{MaxHandshakes: 1}, lanes{'a': {Handshake: greeting("hello")}})
	slow := dial(t, port.Addr().String(), 'a')
	awaitPending(t, port, 1)
	quick := dial(t, port.Addr().String(), 'a')
	expectClosed(t, slow)
	awaitRejected(t, port, demux.Overload, 1)
	send(t, quick, "hello")
	talk(t, quick, accept(t, lane['a']))
}
