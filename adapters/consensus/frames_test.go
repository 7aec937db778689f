package consensus

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// transportOn returns raft's transport on a raft port, as a Node has it.
func transportOn(t *testing.T, own *preface.Preface) (*raft.NetworkTransport, *stream) {
	t.Helper()
	s, _ := openStream(t, own)
	network := newTransport(s, hclog.NewNullLogger())
	t.Cleanup(func() { network.Close() })
	return network, s
}

// peerOf returns a connection of a peer that the preface has let in.
func peerOf(t *testing.T, s *stream) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, err = conn.Write([]byte{RaftLane})
	if err := errors.Join(err, conn.SetDeadline(time.Now().Add(patience)), dialPreface(newPreface("peer", "c", ""), conn)); err != nil {
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
			_, s := transportOn(t, newPreface("here", "c", ""))
			for rpc, first := range requestBytes {
				conn := peerOf(t, s)
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
			network, s := transportOn(t, newPreface("here", "c", ""))
			serveRaftRequests(t, network)
			conn := peerOf(t, s)
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

// serveRaftRequests handles requests as raft does: it refuses those of an unknown version,
// and reads a snapshot to its end.
func serveRaftRequests(t *testing.T, network raft.Transport) <-chan raft.RPC {
	t.Helper()
	seen := make(chan raft.RPC, 1)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case rpc := <-network.Consumer():
				reply(rpc)
				select {
				case seen <- rpc:
				default:
				}
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() { close(stop); done.Wait() })
	return seen
}

func reply(rpc raft.RPC) {
	header := rpc.Command.(raft.WithRPCHeader).GetRPCHeader()
	if header.ProtocolVersion != raft.ProtocolVersionMax {
		rpc.Respond(nil, raft.ErrUnsupportedProtocol)
		return
	}
	switch request := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		rpc.Respond(&raft.AppendEntriesResponse{Term: request.Term, LastLog: uint64(len(request.Entries)), Success: true}, nil)
	case *raft.InstallSnapshotRequest:
		n, err := io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(&raft.InstallSnapshotResponse{Term: uint64(n), Success: true}, err)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{Term: request.Term, Granted: true}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{Term: request.Term, Granted: true}, nil)
	case *raft.TimeoutNowRequest:
		rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	}
}

// patientPeer returns the transport of another instance with long timeouts, and the address
// of here.
func patientPeer(t *testing.T, here *stream) (addressedTransport, raft.ServerAddress) {
	t.Helper()
	there, s := transportOn(t, newPreface("peer", "c", ""))
	dial := s.dial
	s.dial = func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		return patientConn{conn}, err
	}
	return newAddressed(there), raft.ServerAddress(here.port.Addr().String())
}

// patientConn extends every deadline: with the race detector, on a busy machine, the largest
// messages may take longer than the timeout of an RPC.
type patientConn struct{ net.Conn }

func (c patientConn) SetDeadline(at time.Time) error { return c.Conn.SetDeadline(extendDeadline(at)) }
func (c patientConn) SetReadDeadline(at time.Time) error {
	return c.Conn.SetReadDeadline(extendDeadline(at))
}
func (c patientConn) SetWriteDeadline(at time.Time) error {
	return c.Conn.SetWriteDeadline(extendDeadline(at))
}

func extendDeadline(at time.Time) time.Time {
	if at.IsZero() { // no deadline
		return at
	}
	return at.Add(patience)
}

var header = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("peer"), Addr: []byte("peer:8008")}

func entries(count, size int) []*raft.Log {
	made := make([]*raft.Log, count)
	for i := range made {
		made[i] = &raft.Log{Index: uint64(i + 1), Term: 1 << 40, Data: make([]byte, size), Extensions: []byte("x"), AppendedAt: time.Now()}
	}
	return made
}

func TestMessagesOfInstancesPassTheLimits(t *testing.T) {
	network, s := transportOn(t, newPreface("here", "c", ""))
	requests := serveRaftRequests(t, network)
	peer, here := patientPeer(t, s)

	t.Run("entries", func(t *testing.T) {
		for name, sent := range map[string][]*raft.Log{
			"no entries": nil, "one entry": entries(1, 1), "one empty entry": entries(1, 0), "many entries": entries(maxBatch, 100),
			"long entries": entries(3, maxSend/4+17), "an entry longer than a message should be": entries(1, maxSend+1),
		} {
			args := &raft.AppendEntriesRequest{RPCHeader: header, Term: 7, PrevLogEntry: 3, PrevLogTerm: 1, Entries: sent, LeaderCommitIndex: 1 << 33}
			var resp raft.AppendEntriesResponse
			err := peer.AppendEntries("here", here, args, &resp)
			if err != nil || !resp.Success || resp.LastLog != uint64(len(sent)) {
				t.Fatalf("%s: answer = %+v, %v, want success up to %d", name, resp, err, len(sent))
			}
			got := (<-requests).Command.(*raft.AppendEntriesRequest)
			for i, entry := range got.Entries {
				if len(entry.Data) != len(sent[i].Data) || !entry.AppendedAt.Equal(sent[i].AppendedAt) {
					t.Errorf("%s: entry %d has %d bytes and is of %v, want it as sent", name, i, len(entry.Data), entry.AppendedAt)
				}
			}
		}
	})
	t.Run("votes and hand-overs", func(t *testing.T) {
		var vote raft.RequestVoteResponse
		var prevote raft.RequestPreVoteResponse
		if err := errors.Join(
			peer.RequestVote("here", here, &raft.RequestVoteRequest{RPCHeader: header, Term: 9, LeadershipTransfer: true}, &vote),
			peer.RequestPreVote("here", here, &raft.RequestPreVoteRequest{RPCHeader: header, Term: 9}, &prevote),
			peer.TimeoutNow("here", here, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{}),
		); err != nil || !vote.Granted || !prevote.Granted {
			t.Errorf("vote = %+v, prevote = %+v, %v, want both granted", vote, prevote, err)
		}
	})
	t.Run("snapshots", func(t *testing.T) {
		for _, size := range []int{1, 200, 70_000, 5 << 20} {
			args := &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Term: 2, Configuration: make([]byte, 2000), Size: int64(size)}
			var resp raft.InstallSnapshotResponse
			// These bytes would be refused in any other place.
			content := strings.NewReader(strings.Repeat("\xdd\xff", size)[:size])
			if err := peer.InstallSnapshot("here", here, args, &resp, content); err != nil || resp.Term != uint64(size) {
				t.Errorf("InstallSnapshot of %d bytes = %+v, %v, want all bytes read", size, resp, err)
			}
		}
	})
	t.Run("a refusal", func(t *testing.T) {
		err := peer.TimeoutNow("here", here, &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
		if err == nil || err.Error() != raft.ErrUnsupportedProtocol.Error() {
			t.Errorf("error = %v, want %v", err, raft.ErrUnsupportedProtocol)
		}
	})
}

// The sender of a snapshot may disappear or hang in the middle of it, and so may its
// receiver.
func TestASnapshotThatStandsStillIsGivenUp(t *testing.T) {
	const size = 50 << 10
	ends := func() (here *checkedConn, there net.Conn) {
		in, out := net.Pipe()
		return &checkedConn{Conn: in, frames: frameChecker{config: &peerFrames, quota: byteQuota{total: &atomic.Int64{}}, limit: maxIncoming}}, out
	}
	synctest.Test(t, func(t *testing.T) {
		here, there := ends()
		defer there.Close()
		here.frames.requests, here.frames.step, here.frames.skip = true, inSnapshot, 3*size
		go func() {
			for range 2 { // slow progress is no standstill
				time.Sleep(rpcTimeout * 3 / 4)
				_, _ = there.Write(make([]byte, size))
			}
		}()
		began := time.Now()
		n, err := io.Copy(io.Discard, here)
		if took := time.Since(began); n != 2*size || !errors.Is(err, os.ErrDeadlineExceeded) || took != rpcTimeout*5/2 {
			t.Errorf("read %d bytes within %v, error %v, want %d and the deadline after %v", n, took, err, 2*size, rpcTimeout*5/2)
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
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != rpcTimeout {
			t.Errorf("write ended after %v with %v, want the deadline after %v", took, err, rpcTimeout)
		}
	})
}

// A follower that has received a whole snapshot may take as long as it needs to restore it.
func TestTheRestoreOfASnapshotHasNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 50 << 10
		in, out := net.Pipe()
		here := &checkedConn{Conn: in, frames: frameChecker{config: &peerFrames, requests: true, step: inSnapshot, skip: size, quota: byteQuota{total: &atomic.Int64{}}, limit: maxIncoming}}
		go func() {
			_, _ = out.Write(make([]byte, size))
			time.Sleep(2 * rpcTimeout) // the time until the answer
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
	f := frameChecker{config: &peerFrames, requests: true, limit: maxIncoming, quota: byteQuota{total: &atomic.Int64{}}}
	block := "\xc6" + string([]byte{0, 0x10, 0x20, 0}) + strings.Repeat("x", 1<<20+8<<10)
	message := []string{"\x00\x82", textOf("Term"), "\x01", textOf("Entries"), "\xdc\x01\x00"}
	for range maxBatch {
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

func TestMessagesThatAreTooLongAreCutOff(t *testing.T) {
	tests := map[string]struct {
		entries []*raft.Log
		want    int
	}{
		"no entries":                    {nil, 0},
		"many short entries":            {entries(maxBatch, 100), maxBatch},
		"one entry that is too long":    {entries(1, maxSend+1), 1},
		"two entries that are too long": {entries(2, maxSend+1), 1},
		"more entries than fit":         {entries(40, maxSend/32), 31}, // each entry takes more than its data
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			args := &raft.AppendEntriesRequest{Entries: test.entries}
			limitEntries(args)
			if len(args.Entries) != test.want {
				t.Errorf("entries left = %d of %d, want %d", len(args.Entries), len(test.entries), test.want)
			}
		})
	}
}

// The connections of all peers share one limit of bytes in flight, and give back what they
// used.
func TestMessagesOnTheirWayAreBoundedTogether(t *testing.T) {
	s := newFrameGuard(peerFrames)
	halfSent := objectOf("Entries") + "\x91" + objectOf("Data") + "\xc6\x02\x00\x00\x00"
	block := make([]byte, 32<<20)
	conns := make([]*checkedConn, 16)
	send := func(c *checkedConn, p []byte) error { _, err := c.frames.check(p); return err }
	for i := range conns {
		own, other := net.Pipe()
		defer other.Close()
		conns[i] = &checkedConn{Conn: own, frames: frameChecker{config: &peerFrames, requests: true, limit: maxIncoming, quota: byteQuota{total: &s.incoming}}}
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
	if err := send(conns[15], block[:len(block)-1]); !errors.Is(err, errHostile) {
		t.Errorf("bytes over the common limit: check = %v, want errHostile", err)
	}
	for _, c := range conns {
		c.Close()
	}
	// Bytes that were read before Close may be checked after it.
	if err := send(conns[0], block[:1]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("check on a closed connection = %v, want net.ErrClosed", err)
	}
	if left := s.incoming.Load(); left != 0 {
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
			s, _ := openStream(t, newPreface("here", "c", ""))
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				conn, err := s.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, said)
				_, _ = io.Copy(io.Discard, conn)
			}()
			peer, here := patientPeer(t, s)
			cost := allocated(func() {
				err := peer.TimeoutNow("here", here, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{})
				if !errors.Is(err, errHostile) && (err == nil || !strings.Contains(err.Error(), errHostile.Error())) {
					t.Errorf("error = %v, want %v", err, errHostile)
				}
			})
			if cost > 8<<20 {
				t.Errorf("memory taken = %d bytes, want at most 8 MiB", cost)
			}
			s.Close()
			<-answered
		})
	}
}

func TestPeersCannotUseUpTheRaftLane(t *testing.T) {
	cluster := startCluster(t, 2, nil)
	leader := cluster[0]
	for range maxOpen + 20 {
		conn, err := demux.Dial(within(t), leader.raftAddress(), RaftLane)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := errors.Join(conn.SetDeadline(time.Now().Add(patience)), dialPreface(newPreface("stranger", "", ""), conn)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the surplus connections have been closed", func() bool {
		return leader.demux.Stats().Lanes[RaftLane].Evicted >= 20
	})
	if open := leader.demux.Stats().Lanes[RaftLane].Open; open > maxOpen {
		t.Errorf("open connections = %d, want at most %d", open, maxOpen)
	}
	change := register(t, leaderOf(t, cluster), "afterwards")
	cluster[1].waitForRevision(t, change.Revision)
}

// Any input is judged the same however it is split into reads, and costs little memory.
func FuzzFrames(f *testing.F) {
	for _, said := range []string{
		"\x00" + objectOf("Entries") + "\x91" + objectOf("Data") + "\xc4\x03abc",
		"\x01" + objectOf("Candidate") + "\xa3abc", "\x02" + objectOf("Size") + "\x05hello", "\x03\x80", "\x04" + objectOf("Term") + "\xcf12345678",
		"\x00" + objectOf("Entries") + "\xdd\x7f\xff\xff\xff", "\x00" + objectOf("Entries") + "\x91" + objectOf("AppendedAt") + "\xd7\xff12345678",
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		checking := frameChecker{config: &peerFrames, requests: true, limit: maxIncoming, quota: byteQuota{total: &atomic.Int64{}}}
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
		slowly := frameChecker{config: &peerFrames, requests: true, limit: maxIncoming, quota: byteQuota{total: &atomic.Int64{}}}
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
