package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// historyLength is the number of changes that the history keeps.
const historyLength = 10_000

// randomLoad is a set of clients that perform random operations of every kind on
// nodes, through any instance, and ignore their outcomes.
type randomLoad struct {
	clients []*harness.Client
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu   sync.Mutex
	did  int
	seed uint64
}

func startRandomLoad(t *testing.T, c *harness.Cluster) *randomLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &randomLoad{clients: c.Clients(), cancel: cancel, seed: rand.Uint64()}
	t.Logf("the seed is %d", w.seed)
	for n := range 4 {
		random := rand.New(rand.NewPCG(w.seed, uint64(n)))
		w.done.Go(func() {
			for ctx.Err() == nil {
				if err := w.act(random); err != nil && !hasStatus(err, 404) && !hasStatus(err, 409) && !hasStatus(err, 412) {
					rest(ctx) // there is no leader, or the instance is down
				}
				w.mu.Lock()
				w.did++
				w.mu.Unlock()
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *randomLoad) stop() {
	w.cancel()
	w.done.Wait()
}

func (w *randomLoad) act(random *rand.Rand) error {
	through := w.clients[random.IntN(len(w.clients))]
	ctx := context.Background() // operations are completed even if the client is stopped
	id := anyID(random)
	var err error
	switch n := random.IntN(100); {
	case n < 50:
		_, err = through.Put(ctx, anyNode(random, id))
	case n < 65:
		_, err = through.Delete(ctx, id)
	case n < 75:
		_, err = through.Batch(ctx, anyBatch(random))
	case n < 97:
		_, err = through.Heartbeat(ctx, id)
	default:
		_, err = through.ExpirePool(ctx, anyOf(random, "a", "b", "c"))
	}
	return err
}

func anyID(random *rand.Rand) string { return fmt.Sprintf("any-%03d", random.IntN(150)) }

func anyOf(random *rand.Rand, values ...string) string { return values[random.IntN(len(values))] }

func anyNode(random *rand.Rand, id string) harness.Node {
	node := harness.NewNode(id)
	weight := random.IntN(4)
	node.Pool, node.Weight, node.Zone = anyOf(random, "a", "b", "c"), &weight, anyOf(random, "", "x", "y")
	node.State = anyOf(random, "active", "draining", "down")
	if random.IntN(3) == 0 {
		node.Labels = map[string]string{"rack": anyOf(random, "1", "2"), "disk": anyOf(random, "<&>", "é", "")}
	}
	if random.IntN(3) == 0 {
		node.TTLSeconds, node.OnExpiry = 1, anyOf(random, "remove", "down")
	}
	if random.IntN(20) == 0 {
		node.Address = "shared.example:11211" // an address that only one node can have
	}
	return node
}

func anyBatch(random *rand.Rand) []harness.BatchChange {
	changes := make([]harness.BatchChange, 1+random.IntN(20))
	for n := range changes {
		id := anyID(random)
		if random.IntN(10) == 0 {
			changes[n].Remove = id
			continue
		}
		node := anyNode(random, id)
		changes[n].Put = &node
	}
	return changes
}

// awaitMore waits until n more operations were tried, times -soak.
func (w *randomLoad) awaitMore(t *testing.T, n int) {
	t.Helper()
	did := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.did
	}
	goal := did() + n**soak
	harness.Eventually(t, "the random clients complete more operations", func() error {
		if now := did(); now < goal {
			return fmt.Errorf("%d operations are missing", goal-now)
		}
		return nil
	})
}

// snapshotsWithRoom makes instances take snapshots often, but keep enough of the
// log for an instance that needs a second to install a snapshot: snapshots contain
// the history and are large, and clients keep writing.
var snapshotsWithRoom = []string{"--raft_snapshot_threshold=30", "--raft_snapshot_interval=100ms", "--raft_trailing_logs=200"}

func TestAllInstancesHoldTheSameState(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: snapshotsWithRoom})
		fill(t, c.Leader().Client)
		w := startRandomLoad(t, c)
		w.awaitMore(t, 150)
		leader := c.Leader()
		leader.Kill()
		w.awaitMore(t, 150)
		leader.Start()
		leader.AwaitReady()
		comeBackEmpty(t, c, w)
		for _, i := range c.Followers() {
			i.Stop()
			w.awaitMore(t, 60)
			i.Start()
			i.AwaitReady()
		}
		w.awaitMore(t, 150)
		w.stop()
		endLeases(t, c)
		checkEqual(t, c)
	})
}

// comeBackEmpty removes a follower, wipes it, and adds it again, so that it gets
// its state from a snapshot alone.
func comeBackEmpty(t *testing.T, c *harness.Cluster, w *randomLoad) {
	t.Helper()
	leader := c.Leader()
	var i *harness.Instance
	for _, candidate := range c.Instances[1:] { // the first instance would bootstrap a new cluster
		if candidate != leader {
			i = candidate
		}
	}
	if err := leader.RaftRemove(t.Context(), i.ID); err != nil {
		t.Fatal(err)
	}
	i.Stop()
	w.awaitMore(t, 100)
	awaitLog(t, c.Leader(), `msg="compacting logs"`) // so that the log no longer has its first entries
	i.Wipe()
	i.Start()
	if err := c.Leader().RaftAdd(t.Context(), i.Member()); err != nil {
		t.Fatal(err)
	}
	i.AwaitReady()
	awaitLog(t, i, "Installed remote snapshot")
}

// fill makes enough changes for the history to drop the oldest ones.
func fill(t *testing.T, through *harness.Client) {
	t.Helper()
	for weight := range historyLength / 1000 {
		var changes []harness.BatchChange
		for n := range 500 {
			node := harness.NewNode(fmt.Sprintf("filler-%03d", n))
			other := node
			one, two := 2*weight, 2*weight+1
			node.Weight, other.Weight = &one, &two
			changes = append(changes, harness.Puts(node, other)...)
		}
		if _, err := through.Batch(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
	}
}

// endLeases removes all leased nodes, whose expiry would make further changes.
func endLeases(t *testing.T, c *harness.Cluster) {
	t.Helper()
	leader := c.Leader()
	harness.Eventually(t, "no leased node is left", func() error {
		var changes []harness.BatchChange
		for _, node := range list(t, leader.Client).Nodes {
			if node.TTLSeconds > 0 {
				changes = append(changes, harness.BatchChange{Remove: node.ID})
			}
		}
		if len(changes) == 0 {
			return nil
		}
		_, err := leader.Batch(t.Context(), changes) // a node may have expired meanwhile
		return fmt.Errorf("leased nodes = %d, want none: %w", len(changes), err)
	})
}

// checkEqual fails the test unless all instances give the same bytes for the
// registry, for its whole history, and for the snapshot that a stream gets from
// beyond the end of history.
func checkEqual(t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.AwaitReady()
	registry := list(t, c.Leader().Client)
	checkSlots(t, registry)
	oldest := registry.Revision - historyLength
	type told struct{ list, etag, history, snapshot string }
	var all []told
	for _, i := range c.Instances {
		awaitRevision(t, i, registry.Revision)
		stale := i.With("consistency=stale")
		answer, err := stale.Do(t.Context(), "GET", "/nodes", nil)
		if err != nil {
			t.Fatal(err)
		}
		tape := func(since uint64) string {
			tape, err := stale.StreamBytes(t.Context(), "/nodes/sse", since, registry.Revision)
			if err != nil {
				t.Fatal(err)
			}
			return string(tape)
		}
		all = append(all, told{
			list: string(answer.Body), etag: answer.Header.Get("Etag"),
			history: tape(oldest), snapshot: tape(oldest - 1),
		})
	}
	if first := fmt.Sprintf("\nid: %d\n", oldest+1); !strings.Contains(all[0].history[:60], first) ||
		!strings.HasPrefix(all[0].snapshot, "retry: 1000\nevent: snapshot\n") {
		t.Errorf("the stream after %d begins with %.60q, want the next change; the stream after %d with %.60q, want a snapshot", oldest, all[0].history, oldest-1, all[0].snapshot)
	}
	for n, i := range c.Instances {
		if all[n] != all[0] {
			t.Errorf("%s and %s differ; equal are: list %v, etag %v, history %v, snapshot %v", i.ID, c.Instances[0].ID,
				all[n].list == all[0].list, all[n].etag == all[0].etag, all[n].history == all[0].history, all[n].snapshot == all[0].snapshot)
		}
	}
	expiries := strings.Count(all[0].history, `"reason":"expired"`)
	t.Logf("at revision %d all instances answer alike: %d nodes in %d bytes, %d changes, %d of them by expiry, in %d bytes",
		registry.Revision, len(registry.Nodes), len(all[0].list), historyLength, expiries, len(all[0].history))
	if expiries == 0 {
		t.Error("no change is an expiry: the test must cover expiries, too")
	}
}

// checkSlots fails the test if two nodes of a pool share a slot.
func checkSlots(t *testing.T, registry harness.Registry) {
	t.Helper()
	owners := map[string]string{}
	for id, node := range registry.Nodes {
		slot := fmt.Sprintf("slot %d of pool %s", node.Slot, node.Pool)
		if owners[slot] != "" {
			t.Errorf("%s has two owners, %s and %s", slot, owners[slot], id)
		}
		owners[slot] = id
	}
}
