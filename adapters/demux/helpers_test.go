package demux_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// patience is how long a test waits for something that should happen at once.
const patience = 10 * time.Second

// networks are the networks on which everything has to work.
var networks = map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"}

// lanes are the configurations of a Demux's lanes, by first byte.
type lanes map[byte]demux.LaneConfig

// open gives an open Demux, which is closed at the end of the test and has to
// account for every connection then. The zero Config listens on a free IPv4 port
// and leaves handshakes all the time.
func open(t testing.TB, config demux.Config, wanted lanes) (*demux.Demux, map[byte]*demux.Lane) {
	t.Helper()
	if config.Address == "" {
		config.Address = "127.0.0.1:0"
	}
	if config.HandshakeTimeout == 0 {
		config.HandshakeTimeout = time.Minute
	}
	port, err := demux.New(config)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(map[byte]*demux.Lane)
	for first, config := range wanted {
		if opened[first], err = port.Lane(first, config); err != nil {
			t.Fatal(err)
		}
	}
	if err := port.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := port.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		balance(t, port.Stats())
	})
	return port, opened
}

// balance checks that the numbers of Stats add up after Close.
func balance(t testing.TB, stats demux.Stats) {
	t.Helper()
	if sum := total(stats); stats.Accepted != sum {
		t.Errorf("connections accepted = %d, accounted for = %d: %+v", stats.Accepted, sum, stats)
	}
	if stats.Pending != 0 {
		t.Errorf("pending connections after Close = %d, want none", stats.Pending)
	}
	for first, lane := range stats.Lanes {
		if lane.Queued != 0 {
			t.Errorf("connections queued for lane %q after Close = %d, want none", first, lane.Queued)
		}
		if lane.Evicted > lane.HandedOver {
			t.Errorf("lane %q evicted %d connections of %d handed over", first, lane.Evicted, lane.HandedOver)
		}
	}
}

func total(stats demux.Stats) uint64 {
	sum := uint64(stats.Pending)
	for _, n := range stats.Rejected {
		sum += n
	}
	for _, lane := range stats.Lanes {
		sum += lane.HandedOver + uint64(lane.Queued)
	}
	return sum
}

// connect opens a connection to address and sends nothing.
func connect(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// dial opens a connection to a lane.
func dial(t testing.TB, address string, first byte) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := demux.Dial(ctx, address, first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

func send(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// accept accepts the next connection of a lane, which must arrive within patience.
func accept(t testing.TB, lane *demux.Lane) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := lane.Accept()
		accepted <- result{conn, err}
	}()
	select {
	case got := <-accepted:
		if got.err != nil {
			t.Fatal(got.err)
		}
		t.Cleanup(func() { _ = got.conn.Close() })
		return got.conn
	case <-time.After(patience):
		t.Fatal("no connection was accepted")
		return nil
	}
}

// expect reads exactly text.
func expect(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got[:n], err, text)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

// talk checks that a and b are the two ends of one open connection.
func talk(t testing.TB, a, b net.Conn) {
	t.Helper()
	send(t, a, "there")
	expect(t, b, "there")
	send(t, b, "back")
	expect(t, a, "back")
}

// expectClosed checks that the other side closes conn without sending anything.
func expectClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection is not closed: read %d bytes, %v", n, err)
	}
}

// eventually polls until done says true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(patience)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !done() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("not within the deadline: %s", what)
		}
	}
}

func awaitRejected(t testing.TB, port *demux.Demux, reason demux.Reason, want uint64) {
	t.Helper()
	eventually(t, "rejected as "+reason.String(), func() bool { return port.Stats().Rejected[reason] >= want })
	if got := port.Stats().Rejected; got[reason] != want {
		t.Fatalf("rejected = %v, want %d as %v", got, want, reason)
	}
}

func awaitQueued(t testing.TB, port *demux.Demux, first byte, want int) {
	t.Helper()
	eventually(t, "connections wait for Accept", func() bool { return port.Stats().Lanes[first].Queued == want })
}

func awaitPending(t testing.TB, port *demux.Demux, want int) {
	t.Helper()
	eventually(t, "connections are pending", func() bool { return port.Stats().Pending == want })
}

// within fails the test if do does not return.
func within(t testing.TB, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s does not return", what)
	}
}
