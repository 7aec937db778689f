package demux_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

func TestCloseEndsAcceptOfEveryLane(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}, 'b': {}})
	ended := make(chan error)
	for _, lane := range []*demux.Lane{lane['a'], lane['a'], lane['b']} {
		go func() {
			_, err := lane.Accept()
			ended <- err
		}()
	}
	within(t, "Close", func() { _ = port.Close() })
	for range 3 {
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept = %v, want net.ErrClosed", err)
			}
		case <-time.After(patience):
			t.Fatal("an Accept did not return after Close")
		}
	}
	if _, err := lane['a'].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close = %v, want net.ErrClosed", err)
	}
}

func TestCloseClosesOnlyConnectionsThatAreNotHandedOver(t *testing.T) {
	for network, address := range networks {
		t.Run(network, func(t *testing.T) {
			port, lane := open(t, demux.Config{Address: address}, lanes{
				'a': {}, 'b': {MaxOpen: 5}, 'h': {Handshake: greeting("hello")}, 'i': {}})
			address := port.Addr().String()
			mine := connected(t, address, 'a', lane['a'])
			bounded := connected(t, address, 'b', lane['b'])
			silent := connect(t, address)
			shaking := dial(t, address, 'h')
			awaitPending(t, port, 2)
			waiting := dial(t, address, 'i')
			awaitQueued(t, port, 'i', 1)
			if sum := total(port.Stats()); sum != 5 {
				t.Errorf("connections accounted for = %d, want 5: %+v", sum, port.Stats())
			}

			within(t, "Close", func() {
				if err := port.Close(); err != nil {
					t.Error(err)
				}
			})
			for _, conn := range []net.Conn{silent, shaking, waiting} {
				expectClosed(t, conn)
			}
			talk(t, mine.client, mine.server)
			talk(t, bounded.client, bounded.server)
			if got := port.Stats().Rejected[demux.Shutdown]; got != 3 {
				t.Errorf("connections counted as closed by Close = %d, want 3", got)
			}
			if conn, err := net.DialTimeout("tcp", address, patience); err == nil {
				_ = conn.Close()
				t.Error("the port still accepts connections after Close")
			}
		})
	}
}

func TestCloseMayBeCalledAgain(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {Handshake: greeting("hello")}})
	waiting := dial(t, port.Addr().String(), 'a')
	send(t, waiting, "hello")
	awaitQueued(t, port, 'a', 1)
	shaking := dial(t, port.Addr().String(), 'a')
	awaitPending(t, port, 1)
	var closing sync.WaitGroup
	for range 4 {
		closing.Go(func() {
			if err := port.Close(); err != nil {
				t.Error(err)
			}
			balance(t, port.Stats()) // every call of Close has waited
		})
	}
	within(t, "Close", closing.Wait)
	expectClosed(t, waiting)
	expectClosed(t, shaking)
	if err := lane['a'].Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseBeforeOpenIsFinal(t *testing.T) {
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	lane, err := port.Lane('a', demux.LaneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Close(); err != nil {
		t.Error(err)
	}
	if _, err := lane.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want net.ErrClosed", err)
	}
	if err := port.Open(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Open = %v, want net.ErrClosed", err)
	}
	if _, err := port.Lane('b', demux.LaneConfig{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Lane = %v, want net.ErrClosed", err)
	}
}

// The Close of a connection that a handshake returned is foreign code, which may call
// methods of the Demux.
func TestCloseHoldsNoLockWhileItClosesConnections(t *testing.T) {
	var port *demux.Demux
	ready := make(chan struct{})
	port, _ = open(t, demux.Config{}, lanes{'a': {Handshake: wrapping(func() {
		<-ready
		_, _ = port.Addr(), port.Stats()
	})}})
	close(ready)
	send(t, dial(t, port.Addr().String(), 'a'), "hello")
	awaitQueued(t, port, 'a', 1)
	within(t, "Close", func() { _ = port.Close() })
}

func TestLaneCloseClosesOnlyThatLane(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}, 'b': {}})
	address := port.Addr().String()
	mine := connected(t, address, 'a', lane['a'])
	waiting := dial(t, address, 'a')
	awaitQueued(t, port, 'a', 1)
	ended := make(chan error, 1)
	for range 2 {
		if err := lane['a'].Close(); err != nil {
			t.Error(err)
		}
	}
	go func() {
		_, err := lane['a'].Accept()
		ended <- err
	}()
	within(t, "Accept", func() {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, want net.ErrClosed", err)
		}
	})
	expectClosed(t, waiting)
	expectClosed(t, dial(t, address, 'a'))
	awaitRejected(t, port, demux.LaneClosed, 2)
	talk(t, mine.client, mine.server)
	talk(t, dial(t, address, 'b'), accept(t, lane['b']))
}

func TestCloseWakesEveryWaitingAccept(t *testing.T) {
	tests := map[string]func(*demux.Demux, *demux.Lane) error{
		"of the port": func(port *demux.Demux, _ *demux.Lane) error { return port.Close() },
		"of the lane": func(_ *demux.Demux, lane *demux.Lane) error { return lane.Close() },
	}
	for name, closing := range tests {
		t.Run(name, func(t *testing.T) {
			// synctest shows when all of them wait, which needs no open port.
			synctest.Test(t, func(t *testing.T) {
				port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
				if err != nil {
					t.Fatal(err)
				}
				lane, err := port.Lane('a', demux.LaneConfig{})
				if err != nil {
					t.Fatal(err)
				}
				const waiting = 3
				ended := make(chan error, waiting)
				for range waiting {
					go func() {
						_, err := lane.Accept()
						ended <- err
					}()
				}
				synctest.Wait()
				if len(ended) != 0 {
					t.Fatalf("an Accept returned %v before Close", <-ended)
				}
				if err := closing(port, lane); err != nil {
					t.Error(err)
				}
				for range waiting {
					if err := <-ended; !errors.Is(err, net.ErrClosed) {
						t.Errorf("Accept = %v, want net.ErrClosed", err)
					}
				}
			})
		})
	}
}

func TestCallsInTheWrongOrderAreRefused(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}})
	refused := func(what, why string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: error = %v, want one with %q", what, err, why)
		}
	}
	refused("a second Open", "already open", port.Open(t.Context()))
	_, err := port.Lane('b', demux.LaneConfig{})
	refused("a lane after Open", "before Open", err)
	talk(t, dial(t, port.Addr().String(), 'a'), accept(t, lane['a']))
	_ = port.Close()
	if err := port.Open(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Open after Close = %v, want net.ErrClosed", err)
	}
}

func TestALaneHasAByteOfItsOwn(t *testing.T) {
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := port.Lane('a', demux.LaneConfig{}); err != nil {
		t.Fatal(err)
	}
	_, err = port.Lane('a', demux.LaneConfig{})
	if err == nil || !strings.Contains(err.Error(), "0x61 exists already") {
		t.Errorf("second lane of the same byte: error = %v, want that it exists already", err)
	}
	_, err = port.Lane('b', demux.LaneConfig{Backlog: -1, MaxOpen: -2})
	if err == nil || !strings.Contains(err.Error(), "-1") || !strings.Contains(err.Error(), "-2") {
		t.Errorf("lane with two faults: error = %v, want both", err)
	}
}

func TestAddressesThatServe(t *testing.T) {
	tests := map[string]struct{ address, dial string }{
		"IPv4":             {"127.0.0.1:0", "127.0.0.1"},
		"IPv6":             {"[::1]:0", "::1"},
		"a name":           {"localhost:0", "localhost"},
		"all, over IPv4":   {":0", "127.0.0.1"},
		"all, over IPv6":   {":0", "::1"},
		"all, written out": {"[::]:0", "::1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			port, lane := open(t, demux.Config{Address: test.address}, lanes{'a': {}})
			_, number, err := net.SplitHostPort(port.Addr().String())
			if err != nil || number == "0" {
				t.Fatalf("Addr = %v, %v, want the bound port", port.Addr(), err)
			}
			if lane['a'].Addr().String() != port.Addr().String() || port.Addr().Network() != "tcp" {
				t.Errorf("address of the lane = %v, want %v", lane['a'].Addr(), port.Addr())
			}
			talk(t, dial(t, net.JoinHostPort(test.dial, number), 'a'), accept(t, lane['a']))
		})
	}
}

func TestBadConfigIsRefusedWithAllItsFaults(t *testing.T) {
	tests := map[string]struct {
		config demux.Config
		want   []string
	}{
		"no address":             {demux.Config{}, []string{`address ""`, "missing port"}},
		"no port":                {demux.Config{Address: "127.0.0.1"}, []string{"missing port"}},
		"an empty port":          {demux.Config{Address: "127.0.0.1:"}, []string{`port ""`}},
		"a port out of range":    {demux.Config{Address: "127.0.0.1:65536"}, []string{`port "65536"`}},
		"a negative port":        {demux.Config{Address: "127.0.0.1:-1"}, []string{`port "-1"`}},
		"the name of a port":     {demux.Config{Address: "127.0.0.1:http"}, []string{`port "http"`}},
		"IPv6 without brackets":  {demux.Config{Address: "::1:80"}, []string{"too many colons"}},
		"a bracket left open":    {demux.Config{Address: "[::1:80"}, []string{"missing ']'"}},
		"brackets without port":  {demux.Config{Address: "[::1]"}, []string{"missing port"}},
		"three faults, one look": {demux.Config{Address: "x", HandshakeTimeout: -1, MaxHandshakes: -7}, []string{"missing port", "-1ns", "-7"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := demux.New(test.config)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v, want one with %q", err, want)
				}
			}
		})
	}
}

func TestAnOpenThatFailedMayBeRepeated(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port, err := demux.New(demux.Config{Address: taken.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	lane, err := port.Lane('a', demux.LaneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Open(t.Context()); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Fatalf("Open of an address in use = %v, want an error that names it", err)
	}
	if port.Addr().String() != taken.Addr().String() || port.Addr().Network() != "tcp" {
		t.Errorf("Addr before Open = %v, want %v", port.Addr(), taken.Addr())
	}
	_ = taken.Close()
	if err := port.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk(t, dial(t, port.Addr().String(), 'a'), accept(t, lane))
}

func TestHandedOverConnectionsOutliveTheirHandshakeAndTheirPort(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {Handshake: wrapping(nil), MaxOpen: 1}})
	client := dial(t, port.Addr().String(), 'a')
	send(t, client, "hello")
	server := accept(t, lane['a'])
	_ = lane['a'].Close()
	_ = port.Close()
	talk(t, client, server)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read = %d bytes, %v, want the end of the connection", n, err)
	}
	if stats := port.Stats().Lanes['a']; stats.Open != 0 {
		t.Errorf("open connections = %d, want none", stats.Open)
	}
}
