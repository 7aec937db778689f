package consensus

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/frames"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// transportOn returns raft's transport on a raft port, as a Node has it.
func transportOn(t *testing.T, own *preface.Preface) (*raft.NetworkTransport, *demux.Demux) {
	t.Helper()
	return transportDialling(t, own, lane{}.Dial)
}

func transportDialling(t *testing.T, own *preface.Preface, dial dialFunc) (*raft.NetworkTransport, *demux.Demux) {
	t.Helper()
	s, port := openStreamDialling(t, own, dial)
	network := newTransport(s, hclog.NewNullLogger())
	t.Cleanup(func() { network.Close() })
	return network, port
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
func patientPeer(t *testing.T, here *demux.Demux) (addressedTransport, raft.ServerAddress) {
	t.Helper()
	there, _ := transportDialling(t, newPreface("peer", "c", ""), func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := lane{}.Dial(ctx, address)
		return patientConn{conn}, err
	})
	return newAddressed(there), raft.ServerAddress(here.Addr().String())
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
	network, port := transportOn(t, newPreface("here", "c", ""))
	requests := serveRaftRequests(t, network)
	peer, here := patientPeer(t, port)

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

// Package frames knows what is refused.
func TestWhatPeersSendIsChecked(t *testing.T) {
	t.Run("requests", func(t *testing.T) {
		_, port := transportOn(t, newPreface("here", "c", ""))
		conn := dialLane(t, port)
		defer conn.Close()
		if err := dialPreface(newPreface("peer", "c", ""), conn); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "\x00\x81\xa7Entries\xdd\x00\x01\x00\x00") // announces 65536 entries
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection was not closed")
		}
	})
	t.Run("answers", func(t *testing.T) {
		s, port := openStream(t, newPreface("here", "c", ""))
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			conn, err := s.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "\xdb\x04\x00\x00\x01") // announces an error of 64 MiB and a byte
			_, _ = io.Copy(io.Discard, conn)
		}()
		peer, here := patientPeer(t, port)
		err := peer.TimeoutNow("here", here, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{})
		if err == nil || !strings.Contains(err.Error(), frames.ErrHostile.Error()) {
			t.Errorf("error = %v, want %v", err, frames.ErrHostile)
		}
		s.Close()
		<-answered
	})
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
