package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

const (
	patience = 20 * time.Second
	raftLane = 'r'
)

// newPreface returns an instance's part of the preface.
func newPreface(raftID, clusterID, secret string) *preface.Preface {
	return &preface.Preface{RaftID: raftID, ClusterID: func() string { return clusterID }, Secret: []byte(secret)}
}

// connPair returns the two ends of a TCP connection, with a deadline after patience.
func connPair(t *testing.T) (dialer, dialled *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	out, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	in, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	deadline := time.Now().Add(patience)
	if err := errors.Join(out.SetDeadline(deadline), in.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

// dialPreface runs the dialling side of the preface, and drops what it learns.
func dialPreface(p *preface.Preface, conn net.Conn) error {
	_, err := p.Dial(conn)
	return err
}

// openStream returns a stream on a port of its own, which is closed when the test ends.
func openStream(t *testing.T, p *preface.Preface) (*Stream, *demux.Demux) {
	t.Helper()
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := port.Lane(raftLane, demux.LaneConfig{
		Handshake: func(conn net.Conn) (net.Conn, error) { return conn, p.Accept(conn) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) { return demux.Dial(ctx, address, raftLane) }
	s := New(Config{Port: listener, Dial: dial, Advertised: port.Addr().String(), Preface: p})
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), port.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, port
}

// connectStreams returns a connection between two streams, as both ends see it.
func connectStreams(t *testing.T, from, to *Stream, port *demux.Demux) (out, in net.Conn) {
	t.Helper()
	out, err := from.Dial("", port.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	if in, err = to.Accept(); err != nil {
		t.Fatal(err)
	}
	return out, in
}

func TestAStreamCarriesBothWays(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	b, port := openStream(t, newPreface("b", "c", "s"))
	out, in := connectStreams(t, a, b, port)
	for _, way := range [][2]net.Conn{{out, in}, {in, out}} {
		if _, err := io.WriteString(way[0], "rpc"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3)
		if _, err := io.ReadFull(way[1], got); err != nil || string(got) != "rpc" {
			t.Errorf("read %q, %v, want rpc", got, err)
		}
	}
}

// The deadline of the preface must not end the connection later.
func TestADialLeavesNoDeadlineBehind(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	b, port := openStream(t, newPreface("b", "c", "s"))
	const timeout = 3 * time.Second
	begin := time.Now()
	out, err := a.Dial("", port.Addr().String(), timeout)
	if err != nil {
		t.Fatal(err)
	}
	in, err := b.Accept()
	if err != nil {
		t.Fatal(err)
	}
	reading := make(chan error, 2)
	for _, conn := range []net.Conn{in, out} {
		go func() {
			_, err := io.ReadFull(conn, make([]byte, 1))
			reading <- err
		}()
	}
	select {
	case err := <-reading:
		t.Fatalf("Read ended after %v: %v, want it to wait", time.Since(begin), err)
	case <-time.After(timeout + timeout/4):
	}
	_, err = out.Write([]byte{1})
	_, otherErr := in.Write([]byte{1})
	if err := errors.Join(err, otherErr, <-reading, <-reading); err != nil {
		t.Error(err)
	}
}

func TestClosingAStreamEndsAllThatWaitsOnIt(t *testing.T) {
	a, portOfA := openStream(t, newPreface("a", "c", "s"))
	b, portOfB := openStream(t, newPreface("b", "c", "s"))
	out, _ := connectStreams(t, a, b, portOfB)
	_, in := connectStreams(t, b, a, portOfA)
	ended := make(chan error, 3)
	for _, conn := range []net.Conn{out, in} {
		go func() {
			_, err := conn.Read(make([]byte, 1))
			ended <- err
		}()
	}
	go func() {
		_, err := a.Accept()
		ended <- err
	}()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(ended) {
		if err := receive(t, ended, "a call that waits on the stream did not end"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error = %v, want %v", err, net.ErrClosed)
		}
	}
	// Raft closes its remaining connections after that, some of them more than once.
	_, _ = out.Close(), in.Close()
	if err := a.Close(); err != nil {
		t.Errorf("second Close = %v, want success", err)
	}
	if _, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close = %v, want net.ErrClosed", err)
	}
}

func receive[T any](t *testing.T, from <-chan T, otherwise string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal(otherwise)
		panic("unreachable")
	}
}

func TestAResetStreamGoesOnWithNewConnections(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	b, port := openStream(t, newPreface("b", "c", "s"))
	out, in := connectStreams(t, a, b, port)
	b.Reset()
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Reset = %v, want net.ErrClosed", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read from the other side = %v, want the end of the connection", err)
	}
	out, in = connectStreams(t, a, b, port)
	if _, err := io.WriteString(out, "x"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
		t.Errorf("Read from a new connection = %v, want success", err)
	}
}

func TestAClosedStreamDialsNobody(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	_, port := openStream(t, newPreface("b", "c", "s"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial("", port.Addr().String(), patience); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial = %v, want net.ErrClosed", err)
	}
	if accepted := port.Stats().Accepted; accepted != 0 {
		t.Errorf("connections made = %d, want none", accepted)
	}
}

// silentListener accepts connections and sends nothing on them.
func silentListener(t *testing.T) (address string, accepted <-chan net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			conns <- conn
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String(), conns
}

func TestADialThatIsUnderWayEndsWithItsStream(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	address, accepted := silentListener(t)
	dialled := make(chan error, 1)
	go func() {
		_, err := a.Dial("", address, 10*patience)
		dialled <- err
	}()
	receive(t, accepted, "no connection was dialled")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, dialled, "the dial did not end"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial = %v, want net.ErrClosed", err)
	}
}

func TestADialEndsAtItsTimeout(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	address, accepted := silentListener(t)
	const timeout = 50 * time.Millisecond
	begin := time.Now()
	_, err := a.Dial("", address, timeout)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), address) {
		t.Errorf("Dial = %v, want the deadline, naming the address", err)
	}
	if took := time.Since(begin); took < timeout || took > patience/2 {
		t.Errorf("the dial took %v, want %v", took, timeout)
	}
	// The other side sees the end of the connection.
	conn := receive(t, accepted, "no connection was dialled")
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("Read from the other side = %v, want the end of the connection", err)
	}
}

func TestADialThatIsRefusedSaysWhereAndWhy(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c1", ""))
	_, port := openStream(t, newPreface("b", "c2", ""))
	address := port.Addr().String()
	_, err := a.Dial("", address, patience)
	if !errors.Is(err, preface.ErrOtherCluster) || !strings.Contains(err.Error(), address) {
		t.Errorf("Dial = %v, want ErrOtherCluster naming the address", err)
	}
	if len(a.open) != 0 {
		t.Error("the stream remembers a connection that failed, want none")
	}
}

func TestAClosedConnectionIsForgotten(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	b, port := openStream(t, newPreface("b", "c", "s"))
	for range 3 {
		out, in := connectStreams(t, a, b, port)
		if len(a.open) != 1 || len(b.open) != 1 {
			t.Fatalf("open connections remembered = %d and %d, want one each", len(a.open), len(b.open))
		}
		if err := errors.Join(out.Close(), in.Close()); err != nil {
			t.Fatal(err)
		}
		if len(a.open) != 0 || len(b.open) != 0 {
			t.Fatalf("closed connections that are remembered = %d and %d, want none", len(a.open), len(b.open))
		}
	}
}

// Whoever waits for the end of an accepted connection is told once, however many have ended.
func TestTheEndOfAnAcceptedConnectionIsTold(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	b, port := openStream(t, newPreface("b", "c", "s"))
	var dialled, accepted []net.Conn
	for range 2 {
		out, in := connectStreams(t, a, b, port)
		dialled, accepted = append(dialled, out), append(accepted, in)
	}
	mustHold := func(when string, s *Stream, want int) {
		t.Helper()
		if ended := len(s.Ended()); ended != want {
			t.Errorf("%s: tokens of ended connections = %d, want %d", when, ended, want)
		}
	}
	mustHold("before one has ended", b, 0)
	for _, conn := range accepted {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		mustHold("after an accepted one has ended", b, 1)
	}
	receive(t, b.Ended(), "the end of a connection was not told")
	mustHold("after that was taken", b, 0)
	for _, conn := range dialled {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	mustHold("after the dialled ones have ended", a, 0)
}

// A host name is kept as a name on both sides: its address may change.
func TestAHostNameIsResolvedAtEachDial(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", "s"))
	b, port := openStream(t, newPreface("b", "c", "s"))
	_, number, err := net.SplitHostPort(port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b.config.Advertised = net.JoinHostPort("localhost", number)
	for range 2 {
		out, err := a.Dial("", b.Addr().String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		in, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(out.Close(), in.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Addr(); got.String() != "localhost:"+number || got.Network() != "tcp" {
		t.Errorf("Addr = %s %s, want tcp localhost:%s", got.Network(), got, number)
	}
	if _, err := a.Dial("", "no-such-host.invalid:"+number, patience); err == nil {
		t.Error("Dial of an unknown name = nil error, want an error")
	}
}

// cancelledAfter is a connection whose dial is cancelled when left bytes were read.
type cancelledAfter struct {
	net.Conn
	left   int
	end    context.CancelFunc
	closed chan struct{}
	once   sync.Once
}

func (e *cancelledAfter) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if e.left -= n; e.left == 0 {
		e.end()
		<-e.closed
	}
	return n, err
}

func (e *cancelledAfter) Close() error {
	e.once.Do(func() { close(e.closed) })
	return e.Conn.Close()
}

// recordingConn records what is read from a connection.
type recordingConn struct {
	net.Conn
	heard []byte
}

func (o *recordingConn) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	o.heard = append(o.heard, p[:n]...)
	return n, err
}

// prefaceOf returns everything that the accepting side sends in its preface.
func prefaceOf(t *testing.T, dialled *preface.Preface) []byte {
	t.Helper()
	out, in := connPair(t)
	accepted := make(chan error, 1)
	go func() { accepted <- dialled.Accept(in) }()
	ear := &recordingConn{Conn: out}
	if err := errors.Join(dialPreface(newPreface("another", "c", ""), ear), <-accepted); err != nil {
		t.Fatal(err)
	}
	return ear.heard
}

// The preface may succeed in the very moment in which the dial is cancelled. The connection
// must be closed then.
func TestADialThatEndsAtItsLastByteIsAnError(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", ""))
	words := prefaceOf(t, newPreface("b", "c", ""))
	out, in := connPair(t)
	if _, err := in.Write(words); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := &cancelledAfter{Conn: out, left: len(words), end: cancel, closed: make(chan struct{})}
	if _, err := a.greet(ctx, conn, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("greet = %v, want context.Canceled", err)
	}
}

// A connection that comes in while the stream is being closed would not be closed by
// anything else.
func TestAClosedStreamTakesNoConnection(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c", ""))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	out, in := connPair(t)
	if _, err := a.remember(in, func() {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("remember = %v, want net.ErrClosed", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read from the other side = %v, want the end of the connection", err)
	}
}

// Raft keeps connections open. One that was made while the other side was a nonvoter must
// carry nothing once that is a voter.
func TestAConnectionForANonvoterIsNoneForAVoter(t *testing.T) {
	out, in := connPair(t)
	nonvoter := true
	conn := nonvoterConn{out, func() bool { return nonvoter }}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	nonvoter = false
	if n, err := conn.Write([]byte("y")); n != 0 || err == nil {
		t.Errorf("Write to a voter = %d bytes, %v, want none and an error", n, err)
	}
	buffer := make([]byte, 2)
	if n, _ := in.Read(buffer); n != 1 {
		t.Errorf("bytes received = %q, want only the first one", buffer[:n])
	}
	if _, err := in.Read(buffer); !errors.Is(err, io.EOF) {
		t.Errorf("Read from a connection to a voter = %v, want its end", err)
	}
}

// Only a connection to an instance in quarantine depends on the membership.
func TestADialledInstanceInQuarantineIsSentNothingOnceItIsAVoter(t *testing.T) {
	for name, quarantined := range map[string]bool{"in quarantine": true, "trusted": false} {
		t.Run(name, func(t *testing.T) {
			nonvoters := map[string]bool{"b": true}
			from, to := newPreface("a", "c", ""), newPreface("b", "c", "")
			from.Nonvoter = func(id string) bool { return nonvoters[id] }
			to.Trusted = func() bool { return !quarantined }
			a, _ := openStream(t, from)
			b, port := openStream(t, to)
			out, err := a.Dial("b", port.Addr().String(), patience)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Accept(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Write([]byte("x")); err != nil {
				t.Errorf("Write to a nonvoter = %v, want success", err)
			}
			nonvoters["b"] = false
			if _, err := out.Write([]byte("y")); errors.Is(err, preface.ErrQuarantined) != quarantined || !quarantined && err != nil {
				t.Errorf("Write to a voter that was %s = %v, want ErrQuarantined only in quarantine", name, err)
			}
		})
	}
}

func TestARefusedConnectionIsClosed(t *testing.T) {
	a, _ := openStream(t, newPreface("a", "c1", ""))
	out, in := connPair(t)
	accepted := make(chan error, 1)
	go func() { accepted <- newPreface("b", "c2", "").Accept(in) }()
	if _, err := a.greet(t.Context(), out, ""); !errors.Is(err, preface.ErrOtherCluster) {
		t.Errorf("greet = %v, want ErrOtherCluster", err)
	}
	<-accepted
	if _, err := out.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write on the connection = %v, want net.ErrClosed", err)
	}
}

func TestADialReachesTheInstanceThatItIsForOrNone(t *testing.T) {
	for name, secret := range map[string]string{"with a secret": "s", "without a secret": ""} {
		t.Run(name, func(t *testing.T) {
			a, _ := openStream(t, newPreface("a", "c", secret))
			_, port := openStream(t, newPreface("b:1", "c", secret))
			address := port.Addr().String()
			out, err := a.Dial("b:1", address, patience)
			if err != nil {
				t.Fatal(err)
			}
			if err := out.Close(); err != nil {
				t.Error(err)
			}
			if expects := a.config.Preface.Expects; expects != "" {
				t.Errorf("every later dial expects %q, want any instance: dials share the preface", expects)
			}
			_, err = a.Dial("b:2", address, patience)
			if !errors.Is(err, preface.ErrOtherID) {
				t.Errorf("Dial = %v, want ErrOtherID", err)
			}
			for _, word := range []string{"b:1", "b:2", address} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error = %q, want it to name %q", err, word)
				}
			}
		})
	}
}
