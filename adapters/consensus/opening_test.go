package consensus

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Raft can forget, over a change of leadership, that a transfer has ended, and
// then turns every write away for ever, while its heartbeats keep the others from
// electing somebody else.
func TestALeaderThatRaftKeepsFromWritingGivesUp(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	silent, told := make(chan struct{}), make(chan raft.ServerID, 1)
	fatal := make(chan error, 1)
	var log lines
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport {
			return mute{&faulty{inner, fabric}, silent, told}
		}
		if config.bootstrap {
			config.fatal = func(err error) { fatal <- err }
			config.hooks.stuckAfter = 300 * time.Millisecond
			config.logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			return
		}
		// The other one never stands for election.
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
		t.Fatalf("hand over: %v", err)
	}
	if _, err := leader.apply(within(t), encodeEntry(opening{})); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("a write while leadership is handed over: %v, want ErrNotLeader", err)
	}

	term := leader.raft.CurrentTerm()
	fabric.cut(raft.ServerAddress(leader.raftAddress()))
	leader.eventually(t, "deposed", func(s ports.LocalState) bool { return !s.Leading })
	fabric.mend(raft.ServerAddress(leader.raftAddress()))
	select {
	case err := <-fatal:
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) || leader.raft.CurrentTerm() == term {
			t.Errorf("Fatal in term %d after %d: %v", leader.raft.CurrentTerm(), term, err)
		}
	case <-time.After(patience):
		t.Fatal("it leads for ever without being able to write")
	}
	if n := strings.Count(strings.Join(log.since(0), "\n"), "could not open the term"); n != 1 {
		t.Errorf("it was told %d times that the term can't be opened yet", n)
	}
}
