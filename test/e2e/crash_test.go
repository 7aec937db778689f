package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestAKilledLeaderIsReplaced(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := start(t, backend)
		for n := range 5 {
			harness.Eventually(t, "a write before", func() error {
				_, err := c.Instances[n%3].Put(t.Context(), harness.NewNode(fmt.Sprintf("before-%d", n)))
				return err
			})
		}
		before := list(t, c.Leader().Client)
		leader := c.Leader()
		leader.Kill()
		survivors := c.Running()
		node := harness.NewNode("after")
		took := harness.Within(t, 3*time.Second, "a write and a read after the leader was killed", func() error {
			stored, err := survivors[0].Put(t.Context(), node)
			if err != nil {
				return err
			}
			// An earlier attempt with an unknown outcome may have stored the node.
			if stored.Revision != before.Revision+1 {
				t.Errorf("revision of the first write after the kill = %d, want %d", stored.Revision, before.Revision+1)
			}
			_, err = survivors[1].Get(t.Context(), node.ID)
			return err
		})
		t.Logf("written and read %v after the leader was killed", took.Round(time.Millisecond))
		after := checkDense(t, survivors[0].Client)
		if after.Revision != before.Revision+1 || len(after.Nodes) != len(before.Nodes)+1 {
			t.Errorf("registry has %d nodes at revision %d, want %d at %d", len(after.Nodes), after.Revision, len(before.Nodes)+1, before.Revision+1)
		}

		leader.Start()
		leader.AwaitReady()
		awaitRevision(t, leader, after.Revision)
		put(t, leader.Client, "through-the-restarted-one")
		for _, i := range c.Instances {
			awaitRevision(t, i, after.Revision+1)
		}
		checkDense(t, leader.Client)
		checkMembers(t, c)
	})
}

// awaitRevision waits until i's own state has reached a revision.
func awaitRevision(t *testing.T, i *harness.Instance, revision uint64) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%s reaches revision %d", i.ID, revision), func() error {
		ready, err := i.Ready(t.Context())
		if err == nil && (ready.Revision != revision || !ready.Ready) {
			err = fmt.Errorf("readiness = %+v", ready)
		}
		return err
	})
}

func TestNothingAcknowledgedIsLostWhenAllAreKilled(t *testing.T) {
	allBackends(t, func(t *testing.T, backend string) {
		// Frequent snapshots make it likely that a crash interrupts one.
		c := harness.Start(t, harness.Options{Backend: backend, Flags: []string{
			"--raft_snapshot_threshold=50", "--raft_snapshot_interval=100ms", "--raft_trailing_logs=20",
		}})
		load := startLoad(t, 8, c.Clients())
		for range 3 {
			load.awaitMore(t, 150)
			for _, i := range c.Instances {
				i.BeginKill()
			}
			for _, i := range c.Instances {
				i.AwaitExit()
			}
			for _, i := range c.Instances {
				i.Start()
			}
			c.AwaitReady()
		}
		load.awaitMore(t, 20)
		load.end()
		registry := checkDense(t, c.Instances[0].Client)
		load.check(t, history(t, c.Instances[0].Client, 0, registry.Revision))
	})
}

func TestAStreamMissesNothing(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := start(t, backend)
		follower := harness.Follow(t, c.Clients()...)
		load := startLoad(t, 4, c.Clients())
		load.awaitMore(t, 50)

		killed := c.Leader()
		killed.Kill()
		load.awaitMore(t, 50)
		killed.Start()
		killed.AwaitReady()
		load.awaitMore(t, 50)

		stopped := c.Leader()
		stopped.Stop()
		load.awaitMore(t, 50)
		stopped.Start()
		stopped.AwaitReady()
		load.awaitMore(t, 50)
		load.end()

		registry := list(t, c.Instances[0].Client)
		follower.Await(t, registry.Revision)
		follower.Stop()
		sameRegistry(t, "the copy of the stream", follower.Registry(), registry)
		streams, snapshots := follower.Counts()
		if streams < 3 || snapshots != 1 {
			t.Errorf("the subscriber used %d streams and %d snapshots, want at least 3 and exactly 1", streams, snapshots)
		}
		load.check(t, history(t, c.Instances[0].Client, 0, registry.Revision))
	})
}

func TestAStreamBeginsWithASnapshotWhereHistoryDoesNotReach(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Size: 1, Backend: backend, Build: harness.Build{Plain: true}})
		leader := c.Instances[0]
		// The history is bounded in bytes, too, so a few large nodes fill it.
		writeLarge(t, leader.Client, 34<<20)
		registry := list(t, leader.Client)
		for name, position := range map[string]string{
			"behind history":        "1",
			"ahead of the registry": fmt.Sprint(registry.Revision + 5),
		} {
			stream, err := leader.Stream(t.Context(), "/nodes/sse", position)
			if err != nil {
				t.Fatal(err)
			}
			event, err := stream.Event()
			stream.Close()
			if err != nil || event.Type != "snapshot" {
				t.Errorf("from a position %s: first event = %+v, %v, want a snapshot", name, event, err)
			}
		}
		recent := history(t, leader.Client, registry.Revision-100, registry.Revision)
		if len(recent) != 100 {
			t.Errorf("changes in the last 100 revisions = %d, want 100", len(recent))
		}
	})
}
