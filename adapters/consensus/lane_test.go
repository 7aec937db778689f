package consensus

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/stream"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// newPreface returns an instance's part of the preface.
func newPreface(raftID, clusterID, secret string) *preface.Preface {
	return &preface.Preface{RaftID: raftID, ClusterID: func() string { return clusterID }, Secret: []byte(secret)}
}

func TestOnlyPeersReachTheRaftLane(t *testing.T) {
	s, port := openStream(t, newPreface("here", "c", "s"))
	refused := map[string]*preface.Preface{
		"another cluster": newPreface("x", "other", "s"), "another secret": newPreface("x", "c", "t"),
		"no secret": newPreface("x", "c", ""), "the same id": newPreface("here", "c", "s"),
	}
	for name, p := range refused {
		conn := dialLane(t, port)
		if err := dialPreface(p, conn); err == nil {
			t.Errorf("preface of %s succeeded, want a refusal", name)
		}
		conn.Close()
	}
	garbage := dialLane(t, port)
	if _, err := io.WriteString(garbage, strings.Repeat("GET / HTTP/1.1\r\n", 100)); err != nil {
		t.Log(err) // the connection may have been closed already
	}
	_, _ = io.Copy(io.Discard, garbage)
	garbage.Close()

	peer := dialLane(t, port)
	defer peer.Close()
	if err := dialPreface(newPreface("peer", "c", "s"), peer); err != nil {
		t.Fatal(err)
	}
	first, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Errorf("Accept = connection from %v, want the peer's", first.RemoteAddr())
	}
	stats := port.Stats()
	for range poll(t) {
		// A refusal is counted when both sides have closed the connection.
		if stats = port.Stats(); stats.Pending == 0 && stats.Rejected[demux.HandshakeFailed] > uint64(len(refused)) {
			break
		}
	}
	if got, want := stats.Rejected[demux.HandshakeFailed], uint64(len(refused)+1); got != want {
		t.Errorf("failed handshakes = %d, want %d: %+v", got, want, stats)
	}
	if lane := stats.Lanes[RaftLane]; lane.HandedOver != 1 || lane.Queued != 0 {
		t.Errorf("stats of the lane = %+v, want one connection handed over and none queued", lane)
	}
}

// poll yields repeatedly until patience is over.
func poll(t *testing.T) iter.Seq[struct{}] {
	t.Helper()
	return func(yield func(struct{}) bool) {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for begin := time.Now(); time.Since(begin) < patience && yield(struct{}{}); {
			<-ticker.C
		}
	}
}

// dialLane returns a connection of the raft lane, before its preface.
func dialLane(t *testing.T, port *demux.Demux) net.Conn {
	t.Helper()
	conn, err := demux.Dial(within(t), port.Addr().String(), RaftLane)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialPreface runs the dialling side of the preface, and drops what it learns.
func dialPreface(p *preface.Preface, conn net.Conn) error {
	_, err := p.Dial(conn)
	return err
}

// openStream returns a stream on a port of its own, which is closed when the test ends.
func openStream(t *testing.T, p *preface.Preface) (*stream.Stream, *demux.Demux) {
	t.Helper()
	return openStreamDialling(t, p, lane{}.Dial)
}

type dialFunc func(ctx context.Context, address string) (net.Conn, error)

func openStreamDialling(t *testing.T, p *preface.Preface, dial dialFunc) (*stream.Stream, *demux.Demux) {
	t.Helper()
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := lane{port}.Listen(p.Accept)
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	s := stream.New(stream.Config{Port: listener, Dial: dial, Advertised: port.Addr().String(), Preface: p})
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), port.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, port
}
