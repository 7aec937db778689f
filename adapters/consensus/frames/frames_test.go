package frames

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const patience = 20 * time.Second

var limits = Config{MaxField: 64 << 20, MaxElements: 1024, ProtocolVersion: uint64(raft.ProtocolVersionMax), Timeout: 2 * time.Second}

// guarded is a raft.StreamLayer whose connections are checked.
type guarded struct {
	net.Listener
	guard *Guard
}

func (g guarded) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return g.guard.Requests(conn), nil
}

func (g guarded) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", string(to), timeout)
	if err != nil {
		return nil, err
	}
	return g.guard.Answers(conn), nil
}

// openTransport returns raft's transport on checked connections, which is closed when the
// test ends.
func openTransport(t *testing.T) *raft.NetworkTransport {
	t.Helper()
	network := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: guarded{listen(t), New(limits)}, Timeout: patience, Logger: hclog.NewNullLogger(),
	})
	t.Cleanup(func() { network.Close() })
	return network
}

// listen returns a TCP listener that is closed when the test ends.
func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// peerOf returns a connection to network.
func peerOf(t *testing.T, network *raft.NetworkTransport) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", string(network.LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// allocated returns how many bytes do makes this process allocate.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// objectOf returns the beginning of a map with one member, whose value must follow.
func objectOf(key string) string { return "\x81" + textOf(key) }

func textOf(s string) string { return string([]byte{0xa0 | byte(len(s))}) + s }

var requestBytes = map[string]byte{"append": 0, "vote": 1, "snapshot": 2, "timeout": 3, "prevote": 4}

func TestAnAnnouncedLengthTakesNoMemory(t *testing.T) {
	tests := map[string]string{
		"two billion entries":               objectOf("Entries") + "\xdd\x7f\xff\xff\xff",
		"four billion entries":              objectOf("Entries") + "\xdd\xff\xff\xff\xff",
		"a few thousand entries":            objectOf("Entries") + "\xdc\xff\xff",
		"two billion members":               "\xdf\x7f\xff\xff\xff",
		"two billion members of an entry":   objectOf("Entries") + "\x91\xdf\x7f\xff\xff\xff",
		"an entry of two gigabytes":         objectOf("Entries") + "\x91" + objectOf("Data") + "\xc6\x7f\xff\xff\xff",
		"an entry of two gigabytes of text": objectOf("Entries") + "\x91" + objectOf("Data") + "\xdb\x7f\xff\xff\xff",
		"an entry of two billion numbers":   objectOf("Entries") + "\x91" + objectOf("Data") + "\xdd\x7f\xff\xff\xff",
		"an id of two gigabytes":            objectOf("ID") + "\xc6\x7f\xff\xff\xff",
		"a leader of two billion numbers":   objectOf("Leader") + "\xdd\x7f\xff\xff\xff",
		"an unknown member of two billion":  objectOf("Later") + "\xdd\x7f\xff\xff\xff",
		"a key of two gigabytes":            "\x81\xdb\x7f\xff\xff\xff",
		"an extension of two gigabytes":     objectOf("Term") + "\xc9\x7f\xff\xff\xff\x01",
		"endlessly nested lists":            objectOf("Later") + strings.Repeat("\x91", 1<<16),
		"no message":                        "hello",
		"a list in place of a message":      "\xdd\x7f\xff\xff\xff",
		"a byte that begins no value":       "\xc1",
	}
	for name, said := range tests {
		t.Run(name, func(t *testing.T) {
			network := openTransport(t)
			for rpc, first := range requestBytes {
				conn := peerOf(t, network)
				cost := allocated(func() {
					_, _ = conn.Write(append([]byte{first}, said...))
					if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s request: the connection was not closed", rpc)
					}
				})
				if cost > 4<<20 {
					t.Errorf("%s request: memory taken = %d bytes, want at most 4 MiB", rpc, cost)
				}
			}
		})
	}
}

// The content of a snapshot is not checked, so a peer must not be able to make raft take the
// content for requests, nor to send one behind it unchecked.
func TestASnapshotHidesNoRequest(t *testing.T) {
	const bomb = "\x00\x81\xa7Entries\xdd\x7f\xff\xff\xff"
	header := func(members ...string) string {
		return "\x02" + string([]byte{0x80 | byte(len(members))}) + strings.Join(members, "")
	}
	version := func(v string) string { return textOf("ProtocolVersion") + v }
	size := func(n string) string { return textOf("Size") + n }
	tests := map[string]string{
		"a version that raft does not read":          header(version("\x09"), size("\x40")) + bomb,
		"no version":                                 header(size("\x40")) + bomb,
		"a version that is nil":                      header(version("\xc0"), size("\x40")) + bomb,
		"two versions":                               header(version("\x03"), version("\x01"), size("\x40")) + bomb,
		"a negative version":                         header(version("\xff"), size("\x40")) + bomb,
		"a request behind the snapshot":              header(version("\x03"), size("\x02")) + "ok" + bomb,
		"a request behind an empty snapshot":         header(version("\x03"), size("\x00")) + bomb,
		"a request behind a snapshot without a size": header(version("\x03")) + bomb,
		"a negative size":                            header(version("\x03"), size("\xd3\xff\xff\xff\xff\xff\xff\xff\xff")) + bomb,
		"a fractional size":                          header(version("\x03"), size("\xcb\x40\x10\x00\x00\x00\x00\x00\x00")) + bomb,
		"a size as text":                             header(version("\x03"), size(textOf("64"))) + bomb,
		"a size of an exabyte":                       header(version("\x03"), size("\xcf\x10\x00\x00\x00\x00\x00\x00\x00")) + bomb,
		"a size that a nested member repeats":        header(version("\x03"), size("\x40"), textOf("Later")+"\x81"+size("\x10"), size("\x00")) + bomb,
	}
	for name, said := range tests {
		t.Run(name, func(t *testing.T) {
			network := openTransport(t)
			serve(t, network)
			conn := peerOf(t, network)
			cost := allocated(func() {
				_, _ = io.WriteString(conn, said)
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection was not closed")
				}
			})
			if cost > 4<<20 {
				t.Errorf("memory taken = %d bytes, want at most 4 MiB", cost)
			}
		})
	}
}

// serve handles requests as raft does: it refuses those of an unknown version, and reads a
// snapshot to its end.
func serve(t *testing.T, network *raft.NetworkTransport) {
	t.Helper()
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case rpc := <-network.Consumer():
				if version := rpc.Command.(raft.WithRPCHeader).GetRPCHeader().ProtocolVersion; version != raft.ProtocolVersionMax || rpc.Reader == nil {
					rpc.Respond(nil, raft.ErrUnsupportedProtocol)
					continue
				}
				_, err := io.Copy(io.Discard, rpc.Reader)
				rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, err)
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() { close(stop); done.Wait() })
}

// The sender of a snapshot may disappear or hang in the middle of it, and so may its
// receiver.
func TestASnapshotThatStandsStillIsGivenUp(t *testing.T) {
	const size = 50 << 10
	ends := func() (here *checkedConn, there net.Conn) {
		in, out := net.Pipe()
		return New(limits).Answers(in).(*checkedConn), out
	}
	synctest.Test(t, func(t *testing.T) {
		here, there := ends()
		defer there.Close()
		here.frames.requests, here.frames.step, here.frames.skip = true, inSnapshot, 3*size
		go func() {
			for range 2 { // slow progress is no standstill
				time.Sleep(limits.Timeout * 3 / 4)
				_, _ = there.Write(make([]byte, size))
			}
		}()
		began := time.Now()
		n, err := io.Copy(io.Discard, here)
		if took := time.Since(began); n != 2*size || !errors.Is(err, os.ErrDeadlineExceeded) || took != limits.Timeout*5/2 {
			t.Errorf("read %d bytes within %v, error %v, want %d and the deadline after %v", n, took, err, 2*size, limits.Timeout*5/2)
		}
		began = time.Now()
		if n, err := io.Copy(io.Discard, here); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 0 {
			t.Errorf("next read = %d bytes, %v after %v, want the deadline at once", n, err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		here, there := ends()
		defer there.Close()
		if err := here.SetDeadline(time.Now().Add(time.Hour)); err != nil { // as raft does for a large one
			t.Fatal(err)
		}
		began := time.Now()
		_, err := here.Write(make([]byte, size))
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != limits.Timeout {
			t.Errorf("write ended after %v with %v, want the deadline after %v", took, err, limits.Timeout)
		}
	})
}

// A follower that has received a whole snapshot may take as long as it needs to restore it.
func TestTheRestoreOfASnapshotHasNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 50 << 10
		in, out := net.Pipe()
		here := New(limits).Requests(in).(*checkedConn)
		here.frames.step, here.frames.skip = inSnapshot, size
		go func() {
			_, _ = out.Write(make([]byte, size))
			time.Sleep(2 * limits.Timeout) // the time until the answer
			_ = out.Close()
		}()
		if n, err := io.Copy(io.Discard, here); n != size || err != nil {
			t.Errorf("read %d bytes, error %v, want %d", n, err, size)
		}
	})
}

// Older builds, which do not limit their messages, send this.
func TestTheLongestMessageOfAnOlderBuildGetsThrough(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: the test sends 270 MB")
	}
	f := newFrames()
	block := "\xc6" + string([]byte{0, 0x10, 0x20, 0}) + strings.Repeat("x", 1<<20+8<<10)
	message := []string{"\x00\x82", textOf("Term"), "\x01", textOf("Entries"), "\xdc\x01\x00"}
	for range 256 {
		message = append(message, "\x82", textOf("Index"), "\xcd\x01\x02", textOf("Data"), block)
	}
	for _, part := range message {
		if n, err := f.check([]byte(part)); err != nil || n != len(part) {
			t.Fatalf("check = %d of %d bytes, %v, want all", n, len(part), err)
		}
	}
	if f.step != atFrame || f.quota.total.Load() != 0 {
		t.Errorf("checker is at step %d with %d bytes, want the beginning of a frame with none", f.step, f.quota.total.Load())
	}
}

// A snapshot is written to the disk while it comes.
func TestASnapshotIsNoMessageOnItsWay(t *testing.T) {
	f := newFrames()
	said := "\x02\x82" + textOf("ProtocolVersion") + "\x03" + textOf("Size") + "\xcd\x10\x00" + strings.Repeat("x", 1<<10)
	if n, err := f.check([]byte(said)); n != len(said) || err != nil {
		t.Errorf("check = %d of %d bytes, %v, want all", n, len(said), err)
	}
	if held := f.quota.total.Load(); held != 0 {
		t.Errorf("bytes on their way = %d, want none", held)
	}
}

func TestNothingIsReadFromTheFirstRefusedByteOn(t *testing.T) {
	in, out := net.Pipe()
	defer out.Close()
	here := New(limits).Requests(in)
	defer here.Close()
	go func() {
		for range 2 {
			_, _ = io.WriteString(out, "\x03\x80\x09\x03\x80")
		}
	}()
	buffer := make([]byte, 100)
	if n, err := here.Read(buffer); string(buffer[:n]) != "\x03\x80" || !errors.Is(err, ErrHostile) {
		t.Errorf("Read = %q, %v, want the first request and ErrHostile", buffer[:n], err)
	}
	if n, err := here.Read(buffer); n != 0 || !errors.Is(err, ErrHostile) {
		t.Errorf("next Read = %d bytes, %v, want none and ErrHostile", n, err)
	}
}

// A peer that sends requests may read its answers as late as raft allows.
func TestAnAnswerHasNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := net.Pipe()
		defer out.Close()
		here := New(limits).Requests(in)
		defer here.Close()
		go func() {
			<-time.After(2 * limits.Timeout)
			_, _ = io.Copy(io.Discard, out)
		}()
		if _, err := io.WriteString(here, "answer"); err != nil {
			t.Errorf("Write = %v, want success", err)
		}
	})
}

// The connections of all peers share one limit of bytes in flight, and give back what they
// used.
func TestMessagesOnTheirWayAreBoundedTogether(t *testing.T) {
	guard := New(limits)
	halfSent := objectOf("Entries") + "\x91" + objectOf("Data") + "\xc6\x02\x00\x00\x00"
	block := make([]byte, 32<<20)
	conns := make([]*checkedConn, 16)
	send := func(c *checkedConn, p []byte) error {
		n, err := c.frames.check(p)
		if err != nil && n > 0 {
			t.Errorf("check = %d bytes, %v, want none", n, err)
		}
		return err
	}
	for i := range conns {
		own, other := net.Pipe()
		defer other.Close()
		conns[i] = guard.Requests(own).(*checkedConn)
		defer conns[i].Close()
		if err := send(conns[i], []byte("\x00"+halfSent)); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range conns[:15] {
		if err := send(c, block[:len(block)-1]); err != nil {
			t.Fatalf("peer %d: %v", i, err)
		}
	}
	if err := send(conns[15], block[:len(block)-1]); !errors.Is(err, ErrHostile) {
		t.Errorf("bytes over the common limit: check = %v, want ErrHostile", err)
	}
	answers := guard.Answers(nil).(*checkedConn)
	if err := send(answers, []byte("\xa5error")); !errors.Is(err, ErrHostile) {
		t.Errorf("an answer over the common limit: check = %v, want ErrHostile", err)
	}
	answers.frames.quota.release()
	for _, c := range conns {
		c.Close()
		c.Close() // which gives back no more
	}
	// Bytes that were read before Close may be checked after it.
	if err := send(conns[0], block[:1]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("check on a closed connection = %v, want net.ErrClosed", err)
	}
	if left := guard.incoming.Load(); left != 0 {
		t.Errorf("bytes not given back = %d, want none", left)
	}
}

// An instance dials whatever address it was told, so anything may answer.
func TestAnAnswerOfAnUnknownPeerTakesNoMemory(t *testing.T) {
	for name, said := range map[string]string{
		"an error of two gigabytes":      "\xdb\x7f\xff\xff\xff",
		"an error of two megabytes":      "\xdb\x00\x20\x00\x00" + strings.Repeat("x", 2<<20),
		"a message of two gigabytes":     "\xa0" + objectOf("ID") + "\xc6\x7f\xff\xff\xff",
		"a message of two billion lists": "\xa0" + objectOf("Peers") + "\xdd\x7f\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			here := listen(t)
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				conn, err := here.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, said)
				_, _ = io.Copy(io.Discard, conn)
			}()
			peer := openTransport(t)
			cost := allocated(func() {
				err := peer.TimeoutNow("here", raft.ServerAddress(here.Addr().String()), &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
				if !errors.Is(err, ErrHostile) && (err == nil || !strings.Contains(err.Error(), ErrHostile.Error())) {
					t.Errorf("error = %v, want %v", err, ErrHostile)
				}
			})
			if cost > 8<<20 {
				t.Errorf("memory taken = %d bytes, want at most 8 MiB", cost)
			}
			here.Close()
			<-answered
		})
	}
}

// Any input is judged the same however it is split into reads, and costs little memory.
func FuzzFrames(f *testing.F) {
	for _, said := range []string{
		"\x00" + objectOf("Entries") + "\x91" + objectOf("Data") + "\xc4\x03abc",
		"\x01" + objectOf("Candidate") + "\xa3abc", "\x02" + objectOf("Size") + "\x05hello", "\x03\x80", "\x04" + objectOf("Term") + "\xcf12345678",
		"\x00" + objectOf("Entries") + "\xdd\x7f\xff\xff\xff", "\x00" + objectOf("Entries") + "\x91" + objectOf("AppendedAt") + "\xd7\xff12345678",
		"\x01" + objectOf("Later") + "\xd9\x64" + strings.Repeat("x", 100),
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		checking := newFrames()
		fine, err := checking.check(said)
		if err == nil && fine != len(said) || fine > len(said) {
			t.Fatalf("check accepted %d of %d bytes, %v", fine, len(said), err)
		}
		if held := checking.quota.total.Load(); held < 0 || held > int64(len(said)) {
			t.Fatalf("quota for %d bytes = %d, want no more than those bytes", len(said), held)
		}
		if len(checking.stack) > maxNesting || len(checking.key) > maxName {
			t.Fatalf("checker keeps %d levels and a name of %d bytes, want at most %d and %d", len(checking.stack), len(checking.key), maxNesting, maxName)
		}
		// Byte by byte, the verdict must be the same.
		slowly := newFrames()
		for at := range said {
			if _, slowErr := slowly.check(said[at : at+1]); slowErr != nil {
				if at < fine || err == nil {
					t.Fatalf("check byte by byte refuses byte %d: %v, want no refusal that early", at, slowErr)
				}
				return
			}
		}
		if err != nil {
			t.Fatalf("check byte by byte accepts everything, but as a whole it refuses byte %d: %v", fine, err)
		}
	})
}
