package e2e_test

import (
	"fmt"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// snapshotsOften makes instances take snapshots all the time and keep so little of
// the log that an instance that was down needs a snapshot.
var snapshotsOften = []string{"--raft_snapshot_threshold=30", "--raft_snapshot_interval=100ms", "--raft_trailing_logs=10"}

func TestBatchesAreSeenWholeOrNotAtAll(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: snapshotsOften, Build: harness.Build{Plain: true}})
		checkOneEntry(t, c)
		h := startHerd(t, c)
		followers := map[string]*harness.Follower{"the stream": harness.Follow(t, c.Clients()...)}
		for _, i := range c.Instances {
			followers["the stream of "+i.ID] = harness.Follow(t, i.With("redirect=false"))
		}
		for range 2 * *soak {
			h.awaitMore(t, moreBatches)
			leader := c.Leader()
			leader.Kill()
			h.awaitMore(t, moreBatches)
			leader.Start()
			leader.AwaitReady()
		}
		h.awaitMore(t, moreBatches)
		h.check(t)

		c.AwaitReady()
		registry := list(t, c.Instances[0].Client)
		weight, err := h.weigh(registry)
		if err != nil || int64(weight) < h.acked.Load() {
			t.Errorf("weight in the end = %d, %v, want at least %d, which was acknowledged", weight, err, h.acked.Load())
		}
		for name, follower := range followers {
			follower.Await(t, registry.Revision)
			follower.Stop()
			sameRegistry(t, name, follower.Registry(), registry)
			h.checkHistory(t, name, follower.Changes())
			streams, snapshots := follower.Counts()
			t.Logf("%s: %d changes, %d streams, %d snapshots", name, len(follower.Changes()), streams, snapshots)
		}
		for _, i := range c.Instances {
			since := max(h.base, registry.Revision-50*herdSize)
			h.checkHistory(t, i.ID, history(t, i.With("consistency=stale"), since, registry.Revision))
		}
	})
}

// checkOneEntry fails the test unless a batch is one entry of the raft log,
// whatever its number of changes.
func checkOneEntry(t *testing.T, c *harness.Cluster) {
	t.Helper()
	const most = 1000
	changes := make([]harness.BatchChange, 0, most)
	for n := range most / 2 {
		node := harness.NewNode(fmt.Sprintf("passing-%03d", n))
		changes = append(changes, harness.BatchChange{Put: &node})
	}
	for n := range most / 2 {
		changes = append(changes, harness.BatchChange{Remove: fmt.Sprintf("passing-%03d", n)})
	}
	before := logOf(t, c)
	batch, err := c.Followers()[0].Batch(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	for n, result := range batch.Results {
		want := "added"
		if n >= most/2 {
			want = "removed"
		}
		if result.Type != want || result.Revision != uint64(before[0].revision)+uint64(n)+1 {
			t.Fatalf("change %d = %s at revision %d, want %s at %d", n, result.Type, result.Revision, want, uint64(before[0].revision)+uint64(n)+1)
		}
	}
	harness.Eventually(t, "all instances have the batch", func() error {
		for n, now := range logOf(t, c) {
			was := before[n]
			if now.last != was.last+1 || now.revision != was.revision+most {
				return fmt.Errorf("%s went from %+v to %+v", c.Instances[n].ID, was, now)
			}
		}
		return nil
	})
}
