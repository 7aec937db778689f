package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	herdSize = 100
	// forbidden is the weight in batches that must be refused.
	forbidden = 666_666
	// moreBatches is the number of acknowledged batches between two disturbances.
	moreBatches = 15
)

// herd is a pool whose nodes all have the same weight. Each batch sets all of them
// to the next weight, on the condition that nothing has changed since the batch
// before. So a reader that sees two weights, or another number of nodes, has seen
// part of a batch, and a condition that fails means that the batch before was lost.
type herd struct {
	clients []*harness.Client
	base    uint64 // revision before the first batch
	cancel  context.CancelFunc
	done    sync.WaitGroup

	acked   atomic.Int64 // highest acknowledged weight
	batches atomic.Int64 // number of acknowledged batches
	unknown atomic.Int64
	refused atomic.Int64
	reads   atomic.Int64

	mu     sync.Mutex
	faults []error
}

func (h *herd) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.faults) < 10 {
		h.faults = append(h.faults, err)
	}
}

func (h *herd) nodes(weight int) []harness.BatchChange {
	nodes := make([]harness.Node, herdSize)
	for n := range nodes {
		nodes[n] = harness.NewNode(fmt.Sprintf("herd-%03d", n))
		nodes[n].Pool, nodes[n].Weight = "herd", &weight
	}
	return harness.Puts(nodes...)
}

// weigh returns the weight of all nodes in a list, or an error that says what is
// wrong with the list.
func (h *herd) weigh(registry harness.Registry) (int, error) {
	weight := -1
	for id, node := range registry.Nodes {
		if weight < 0 {
			weight = *node.Weight
		}
		if *node.Weight != weight {
			return 0, fmt.Errorf("at revision %d, %s has weight %d and another node %d, want the same for all", registry.Revision, id, *node.Weight, weight)
		}
	}
	if len(registry.Nodes) != herdSize || weight == forbidden {
		return 0, fmt.Errorf("at revision %d there are %d nodes with weight %d, want %d and not %d", registry.Revision, len(registry.Nodes), weight, herdSize, forbidden)
	}
	if (registry.Revision-h.base)%herdSize != 0 {
		return 0, fmt.Errorf("revision %d is in the middle of a batch: batches of %d changes begin after revision %d", registry.Revision, herdSize, h.base)
	}
	return weight, nil
}

// startHerd makes the first batch, and then writes and reads through all instances until check.
func startHerd(t *testing.T, c *harness.Cluster) *herd {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h := &herd{clients: c.Clients(), cancel: cancel, base: list(t, c.Instances[0].Client).Revision}
	t.Cleanup(h.stop)
	first, err := c.Instances[0].Batch(t.Context(), h.nodes(1))
	if err != nil {
		t.Fatal(err)
	}
	h.acked.Store(1)
	for _, i := range c.Instances {
		awaitRevision(t, i, first.Revision)
	}
	h.done.Go(func() { h.write(ctx, first.Results[0].Node.Revision) })
	h.done.Go(func() { h.sabotage(ctx) })
	for _, client := range h.clients {
		h.done.Go(func() { h.read(ctx, client, true) })
		h.done.Go(func() { h.read(ctx, client.With("redirect=false"), true) })
		h.done.Go(func() { h.read(ctx, client.With("consistency=stale"), false) })
		h.done.Go(func() { h.subscribe(ctx, client.With("redirect=false")) })
	}
	return h
}

func (h *herd) stop() {
	h.cancel()
	h.done.Wait()
}

// write makes one batch after the other. known is the current revision of the first node.
func (h *herd) write(ctx context.Context, known uint64) {
	weight, doubtful := 2, false
	for turn := 0; ctx.Err() == nil; turn++ {
		changes := h.nodes(weight)
		changes[0].IfRevision = &known
		batch, err := h.clients[turn%len(h.clients)].Batch(context.Background(), changes)
		switch {
		case err == nil:
			known, doubtful = batch.Results[0].Node.Revision, false
			h.acked.Store(int64(weight))
			h.batches.Add(1)
			weight++
		case harness.OutcomeOf(err) == harness.Unknown:
			doubtful = true // the condition of the next attempt will tell
			h.unknown.Add(1)
		case hasStatus(err, http.StatusPreconditionFailed) && doubtful && *problemIn(err).Node.Weight == weight:
			known, doubtful = problemIn(err).Node.Revision, false
			weight++
		case hasStatus(err, http.StatusServiceUnavailable) || problemIn(err) == nil: // there is no leader, or the instance is down
			rest(ctx)
		default:
			h.fail(fmt.Errorf("batch of weight %d on the condition of revision %d (outcome of the last attempt unknown: %v): %w", weight, known, doubtful, err))
			return
		}
	}
}

// sabotage makes batches that must be refused because of their last change.
func (h *herd) sabotage(ctx context.Context) {
	stale := uint64(1 << 40)
	taken := harness.NewNode("thief")
	taken.Address = harness.NewNode("herd-000").Address
	ends := []struct {
		last harness.BatchChange
		want int
	}{
		{harness.BatchChange{Remove: "nobody"}, http.StatusNotFound},
		{harness.BatchChange{Remove: "herd-050", IfRevision: &stale}, http.StatusPreconditionFailed},
		{harness.BatchChange{Put: &taken}, http.StatusConflict},
	}
	for turn := 0; ctx.Err() == nil; turn++ {
		end := ends[turn%len(ends)]
		_, err := h.clients[turn%len(h.clients)].Batch(context.Background(), append(h.nodes(forbidden), end.last))
		switch problem := problemIn(err); {
		case err == nil || problem != nil && problem.Status != end.want && problem.Status != http.StatusServiceUnavailable:
			h.fail(fmt.Errorf("error of a batch = %w, want status %d", err, end.want))
			return
		case hasStatus(err, end.want):
			h.refused.Add(1)
		}
		rest(ctx)
	}
}

// read lists continuously. A fresh list must contain everything acknowledged before it.
func (h *herd) read(ctx context.Context, client *harness.Client, fresh bool) {
	for ctx.Err() == nil {
		before := h.acked.Load()
		registry, err := client.List(ctx)
		if err != nil {
			rest(ctx)
			continue
		}
		weight, err := h.weigh(registry)
		if err == nil && fresh && int64(weight) < before {
			err = fmt.Errorf("the weight is %d, and %d was acknowledged before", weight, before)
		}
		if err != nil {
			h.fail(fmt.Errorf("a list from %s: %w", client.Address(), err))
			return
		}
		h.reads.Add(1)
		rest(ctx)
	}
}

// subscribe opens one stream after the other and reads its snapshot.
func (h *herd) subscribe(ctx context.Context, client *harness.Client) {
	for ctx.Err() == nil {
		registry, err := snapshotOf(ctx, client)
		if err != nil {
			rest(ctx)
			continue
		}
		if _, err := h.weigh(registry); err != nil {
			h.fail(fmt.Errorf("a snapshot from %s: %w", client.Address(), err))
			return
		}
		h.reads.Add(1)
		rest(ctx)
	}
}

// snapshotOf returns the snapshot with which a stream begins.
func snapshotOf(ctx context.Context, client *harness.Client) (harness.Registry, error) {
	var snapshot harness.Copy
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := client.Stream(ctx, "/nodes/sse", "")
	if err != nil {
		return harness.Registry{}, err
	}
	defer stream.Close()
	for {
		event, err := stream.Event()
		if err != nil {
			return harness.Registry{}, err
		}
		if whole, err := snapshot.Take(event); whole || err != nil {
			return snapshot.Registry, err
		}
	}
}

// rest pauses before another attempt.
func rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

func problemIn(err error) *harness.Problem {
	problem := new(harness.Problem)
	if !errors.As(err, &problem) {
		return nil
	}
	return problem
}

func hasStatus(err error, status int) bool {
	problem := problemIn(err)
	return problem != nil && problem.Status == status
}

func (h *herd) awaitMore(t *testing.T, n int64) {
	t.Helper()
	goal := h.batches.Load() + n
	harness.Eventually(t, fmt.Sprintf("%d more batches", n), func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.faults) > 0 {
			t.Fatal(errors.Join(h.faults...))
		}
		if now := h.batches.Load(); now < goal {
			return fmt.Errorf("%d batches are missing", goal-now)
		}
		return nil
	})
}

// checkHistory fails the test unless changes, all made by batches, are whole
// batches in order of increasing weight.
func (h *herd) checkHistory(t *testing.T, what string, changes []harness.Change) {
	t.Helper()
	last, number := -1, uint64(0)
	for _, change := range changes {
		k, place := (change.Revision-h.base-1)/herdSize, (change.Revision-h.base-1)%herdSize
		weight := *change.Node.Weight
		switch {
		case change.Node.ID != fmt.Sprintf("herd-%03d", place):
			t.Fatalf("%s: node of change %d of batch %d = %s, want herd-%03d", what, place, k, change.Node.ID, place)
		case last >= 0 && k == number && weight != last, last >= 0 && k > number && weight <= last, weight == forbidden:
			t.Fatalf("%s: change %d of batch %d has weight %d, and the change before it %d", what, place, k, weight, last)
		}
		last, number = weight, k
	}
}

// check ends the load and fails the test if anything went wrong.
func (h *herd) check(t *testing.T) {
	t.Helper()
	h.stop()
	for _, err := range h.faults {
		t.Error(err)
	}
	t.Logf("%d batches of %d changes acknowledged, %d unknown, %d refused, %d lists and snapshots read",
		h.batches.Load(), herdSize, h.unknown.Load(), h.refused.Load(), h.reads.Load())
}
