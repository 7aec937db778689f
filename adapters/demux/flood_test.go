package demux_test

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

func TestAFloodOfSilentConnectionsLocksNoClientOut(t *testing.T) {
	const (
		strangers = 2000
		dialers   = 20
		visits    = 20
		prompt    = 3 * time.Second
	)
	port, lane := open(t, demux.Config{}, lanes{'a': {}}) // no connection leaves because of the timeout
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
			t.Errorf("a client waited for %v, want at most %v", took, prompt)
		}
	}
	for range visits {
		visit()
	}
	flood.Wait()
	visit()

	eventually(t, "every stranger is admitted or rejected", func() bool {
		stats := port.Stats()
		return stats.Accepted == strangers+visits+1 && total(stats) == stats.Accepted
	})
	// Each client may have evicted one more stranger, and left its place free.
	stats := port.Stats()
	in := uint64(stats.Pending)
	if in < demux.DefaultMaxHandshakes-visits-1 || in > demux.DefaultMaxHandshakes ||
		stats.Rejected[demux.Overload] != strangers-in {
		t.Errorf("strangers admitted = %d, rejected = %v, want about %d admitted", in, stats.Rejected, demux.DefaultMaxHandshakes)
	}
	if running := runtime.NumGoroutine(); running > before+demux.DefaultMaxHandshakes+dialers {
		t.Errorf("goroutines for strangers = %d, want at most %d", running-before, demux.DefaultMaxHandshakes+dialers)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	eventually(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= before })
	awaitRejected(t, port, demux.Disconnected, in)
}

func TestMemoryOfStrangersIsFreed(t *testing.T) {
	const strangers = 2000
	tests := map[string]struct {
		bound  time.Duration
		end    func(*demux.Demux) error
		reason demux.Reason
	}{
		"after the timeout": {time.Second, func(*demux.Demux) error { return nil }, demux.Silent},
		"by Close":          {time.Minute, (*demux.Demux).Close, demux.Shutdown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// wave gives the memory in use after strangers came and were rejected.
			wave := func() int64 {
				port, _ := open(t, demux.Config{HandshakeTimeout: test.bound, MaxHandshakes: strangers}, lanes{'a': {}})
				goroutines := runtime.NumGoroutine()
				clients := make([]net.Conn, strangers)
				for n := range clients {
					conn, err := net.DialTimeout("tcp", port.Addr().String(), patience)
					if err != nil {
						t.Fatal(err)
					}
					clients[n] = conn
				}
				eventually(t, "all were accepted", func() bool { return port.Stats().Accepted == strangers })
				within(t, "the end", func() {
					if err := test.end(port); err != nil {
						t.Error(err)
					}
				})
				awaitRejected(t, port, test.reason, strangers) // none was evicted
				for _, client := range clients {
					expectClosed(t, client)
					_ = client.Close()
				}
				eventually(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= goroutines })
				used := inUse()
				runtime.KeepAlive(port) // the memory that it still holds must be counted
				return used
			}
			// The runtime never frees the descriptors of goroutines, about 1 MB for
			// these, but uses them again: the first wave to need so many pays for them,
			// which on a busy machine is not the first. What leaks does so every time.
			var grown int64
			for range 3 {
				before := wave()
				wave()
				// Leaking but the connections of two waves would be 1.6 MB and more.
				if grown = wave() - before; grown <= 512<<10 {
					return
				}
			}
			t.Errorf("two more waves of strangers left %d bytes in use", grown)
		})
	}
}

// inUse gives the number of reachable bytes of heap and of stacks.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // the first collection only moves pooled objects to the victim cache
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return int64(memory.HeapAlloc + memory.StackInuse)
}

func TestTheSourceWithTheMostHandshakesIsEvicted(t *testing.T) {
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

func TestAnEvictedHandshakeIsCutOff(t *testing.T) {
	port, lane := open(t, demux.Config{MaxHandshakes: 1}, lanes{'a': {Handshake: greeting("hello")}})
	slow := dial(t, port.Addr().String(), 'a')
	awaitPending(t, port, 1)
	quick := dial(t, port.Addr().String(), 'a')
	expectClosed(t, slow)
	awaitRejected(t, port, demux.Overload, 1)
	send(t, quick, "hello")
	talk(t, quick, accept(t, lane['a']))
}
