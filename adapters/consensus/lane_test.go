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

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// side gives an instance's part of the preface.
func side(raftID, clusterID, secret string) *preface.Preface {
	return &preface.Preface{RaftID: raftID, ClusterID: func() string { return clusterID }, Secret: []byte(secret)}
}

// connected gives the two ends of a TCP connection, bounded by patience.
func connected(tb testing.TB) (dialer, dialled *net.TCPConn) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	out, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { out.Close() })
	in, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { in.Close() })
	deadline := time.Now().Add(patience)
	if err := errors.Join(out.SetDeadline(deadline), in.SetDeadline(deadline)); err != nil {
		tb.Fatal(err)
	}
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

func TestOnlyPeersReachTheRaftLane(t *testing.T) {
	stream, port := openStream(t, side("here", "c", "s"))
	refused := map[string]*preface.Preface{
		"another cluster": side("x", "other", "s"), "another secret": side("x", "c", "t"),
		"no secret": side("x", "c", ""), "the same id": side("here", "c", "s"),
	}
	for name, p := range refused {
		conn := dialLane(t, port)
		if err := dials(p, conn); err == nil {
			t.Errorf("%s: it was welcome", name)
		}
		conn.Close()
	}
	garbage := dialLane(t, port)
	if _, err := io.WriteString(garbage, strings.Repeat("GET / HTTP/1.1\r\n", 100)); err != nil {
		t.Log(err) // it may have been cut off already
	}
	_, _ = io.Copy(io.Discard, garbage)
	garbage.Close()

	peer := dialLane(t, port)
	defer peer.Close()
	if err := dials(side("peer", "c", "s"), peer); err != nil {
		t.Fatal(err)
	}
	first, err := stream.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Errorf("Accept gave %v instead of the peer", first.RemoteAddr())
	}
	stats := port.Stats()
	for range poll(t) {
		// A refusal is counted once both sides have hung up.
		if stats = port.Stats(); stats.Pending == 0 && stats.Rejected[demux.HandshakeFailed] > uint64(len(refused)) {
			break
		}
	}
	if got, want := stats.Rejected[demux.HandshakeFailed], uint64(len(refused)+1); got != want {
		t.Errorf("%d connections failed their handshake, want %d: %+v", got, want, stats)
	}
	if lane := stats.Lanes[RaftLane]; lane.HandedOver != 1 || lane.Queued != 0 {
		t.Errorf("the lane let in %+v", lane)
	}
}

// poll ticks until patience is over.
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

// dialLane gives a connection of the raft lane, before its preface.
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

// dials is for those who do not mind what the connection is good for.
func dials(p *preface.Preface, conn net.Conn) error {
	_, err := p.Dial(conn)
	return err
}

// openStream gives a stream on a port of its own, closed when the test ends.
func openStream(t *testing.T, p *preface.Preface) (*stream, *demux.Demux) {
	t.Helper()
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	network := lane{port}
	listener, err := network.Listen(p.Accept)
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	s := newStream(listener, network.Dial, port.Addr().String(), p)
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), port.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, port
}
