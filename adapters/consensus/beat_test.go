package consensus

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// tampered is a transport whose AppendEntries a test can intercept at any time.
type tampered struct {
	transport
	with *atomic.Pointer[tampering]
}

// tampering answers a request, or passes it on to the transport.
type tampering func(raft.ServerID, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (answered bool, err error)

func (x tampered) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (x tampered) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if with := x.with.Load(); with != nil {
		if answered, err := (*with)(id, args, resp); answered {
			return err
		}
	}
	return x.transport.AppendEntries(id, to, args, resp)
}

// startTampered returns the leader of a cluster of three, which no other instance deposes.
func startTampered(t *testing.T) (leader *instance, with *atomic.Pointer[tampering]) {
	t.Helper()
	with = &atomic.Pointer[tampering]{}
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing, config.hooks.settings = shortTimeouts, neverDeposed
		if config.bootstrap {
			config.hooks.transport = func(inner transport) transport { return tampered{inner, with} }
		}
	})
	return cluster[0], with
}

func TestReadsGoOnWhileAVoterHangs(t *testing.T) {
	leader, with := startTampered(t)
	proceed := make(chan struct{})
	t.Cleanup(func() { close(proceed) }) // before the cluster is stopped
	hang := tampering(func(id raft.ServerID, _ *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) (bool, error) {
		if id == "instance-2" {
			<-proceed
		}
		return false, nil
	})
	with.Store(&hang)
	began := time.Now()
	for range 100 {
		if _, err := leader.Read(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > rpcTimeout {
		t.Errorf("100 reads took %v, want less than rpcTimeout, which one hanging RPC may take", took)
	}
	if got := leader.heartbeats.voters(); !slices.Equal(got, []raft.ServerID{"instance-1", "instance-2"}) {
		t.Errorf("heartbeats are sent to %v, want each voter once", got)
	}
}

func TestAVoterThatWasRemovedIsSentNoMoreHeartbeats(t *testing.T) {
	leader := startCluster(t, 3, nil)[0]
	read := func() {
		if _, err := leader.Read(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if err := leader.Remove(within(t), "instance-2"); err != nil {
		t.Fatal(err)
	}
	until(t, "no heartbeats are sent to the removed voter", func() bool {
		read()
		return slices.Equal(leader.heartbeats.voters(), []raft.ServerID{"instance-1"})
	})
}

// The heartbeat may have waited for an earlier one, which hung.
func TestAHeartbeatThatIsTooLateIsNotSent(t *testing.T) {
	leader, with := startTampered(t)
	var mu sync.Mutex
	var sent []heartbeat
	note := tampering(func(id raft.ServerID, args *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, heartbeat{to: id, term: args.Term})
		return false, nil
	})
	with.Store(&note)
	term, _ := leader.leads()
	late := []heartbeat{{to: "instance-1", term: term - 1}, {to: "stranger", term: term}}
	for _, h := range append(late, heartbeat{to: "instance-1", term: term}) {
		if err := leader.beat(h); err != nil {
			t.Errorf("beat(%v) = %v, want success", h, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.Contains(sent, late[0]) || slices.Contains(sent, late[1]) || !slices.Contains(sent, heartbeat{to: "instance-1", term: term}) {
		t.Errorf("heartbeats sent = %v, want only that of the current term %d to instance-1", sent, term)
	}
}

// Raft learns of the later term from an answer to entries, which a voter whose disk hangs
// does not give.
func TestALeaderThatHearsOfALaterTermByHeartbeatsAloneEndsItsRounds(t *testing.T) {
	leader, with := startTampered(t)
	refuse := tampering(func(_ raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (bool, error) {
		if args.PrevLogEntry > 0 || len(args.Entries) > 0 || args.LeaderCommitIndex > 0 {
			return true, errCut
		}
		resp.Term, resp.Success = args.Term+1, false
		return true, nil
	})
	with.Store(&refuse)
	if view, err := leader.Read(within(t)); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Read = revision %d, %v, want ErrNotLeader", view.Revision(), err)
	}
}
