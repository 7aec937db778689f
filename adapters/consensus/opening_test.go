package consensus

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Over a change of leadership, raft can forget that a transfer has ended. It then refuses
// every write for ever, while its heartbeats keep the other voters from electing another
// leader.
func TestALeaderThatRaftKeepsFromWritingGivesUp(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	silent, told := make(chan struct{}), make(chan raft.ServerID, 1)
	fatal := make(chan error, 1)
	var log logLines
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport {
			return lostTimeoutNow{&faulty{inner, fabric}, silent, told}
		}
		if config.bootstrap {
			config.fatal = func(err error) { fatal <- err }
			config.hooks.stuckAfter = 300 * time.Millisecond
			config.logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			return
		}
		// The other instance never stands for election.
		config.hooks.settings = func(settings *raft.Config) {
			settings.HeartbeatTimeout, settings.ElectionTimeout = 2*patience, 2*patience
		}
	})
	t.Cleanup(func() { close(silent) })
	leader := cluster[0]
	ctx, cancel := context.WithCancel(t.Context())
	handed := make(chan error, 1)
	go func() { handed <- leader.HandOver(ctx, "") }()
	<-told
	cancel()
	if err := <-handed; !errors.Is(err, context.Canceled) {
		t.Fatalf("HandOver = %v, want context.Canceled", err)
	}
	if _, err := leader.apply(within(t), codec.EncodeEntry(codec.Opening{})); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("apply during a transfer = %v, want ErrNotLeader", err)
	}

	term := leader.raft.CurrentTerm()
	fabric.cut(raft.ServerAddress(leader.raftAddress()))
	leader.eventually(t, "deposed", func(s ports.LocalState) bool { return !s.Leading })
	fabric.mend(raft.ServerAddress(leader.raftAddress()))
	select {
	case err := <-fatal:
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) || leader.raft.CurrentTerm() == term {
			t.Errorf("Fatal in term %d after term %d = %v, want a transfer in progress in a later term", leader.raft.CurrentTerm(), term, err)
		}
	case <-time.After(patience):
		t.Fatal("the leader, which can't write, did not give up")
	}
	if n := strings.Count(strings.Join(log.since(0), "\n"), "could not open the term"); n != 1 {
		t.Errorf("log lines about a term that can't be opened = %d, want 1", n)
	}
}
