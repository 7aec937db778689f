package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	// maxLate is how long after its time to live a node may still be listed.
	maxLate = time.Second
	// agents is the number of agents that share the nodes.
	agents = 50
)

// leased returns nodes with a time to live. On expiry, every other node goes down,
// and the rest are removed.
func leased(pool string, count, ttlSeconds int) []harness.Node {
	nodes := make([]harness.Node, count)
	for n := range nodes {
		nodes[n] = harness.NewNode(fmt.Sprintf("%s-%04d", pool, n))
		nodes[n].Pool, nodes[n].TTLSeconds = pool, ttlSeconds
		if n%2 == 1 {
			nodes[n].OnExpiry = "down"
		}
	}
	return nodes
}

func idsOf(nodes []harness.Node) []string {
	ids := make([]string, len(nodes))
	for n, node := range nodes {
		ids[n] = node.ID
	}
	return ids
}

// register puts all nodes in one batch.
func register(t *testing.T, through *harness.Client, nodes []harness.Node) harness.Batch {
	t.Helper()
	batch, err := through.Batch(t.Context(), harness.Puts(nodes...))
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// startAgents has agents renew nodes through all instances, and waits until the
// leader knows the pace of the renewals.
func startAgents(t *testing.T, c *harness.Cluster, count int, nodes []harness.Node) *harness.Agents {
	t.Helper()
	var addresses []string
	for _, i := range c.Instances {
		addresses = append(addresses, i.Application)
	}
	a := harness.StartAgents(t, count, addresses, idsOf(nodes))
	a.AwaitPace(t)
	return a
}

// expired returns the changes made by expiry, by node.
func expired(changes []harness.Change) map[string]harness.Change {
	found := map[string]harness.Change{}
	for _, change := range changes {
		if change.Reason == "expired" {
			found[change.Node.ID] = change
		}
	}
	return found
}

func TestLeases(t *testing.T) {
	t.Parallel() // it mostly waits
	c := harness.Start(t, harness.Options{Flags: calm, Build: harness.Build{Plain: true}})
	follower := harness.Follow(t, c.Leader().Client)
	t.Run("only nodes whose renewals stop expire, and in time", func(t *testing.T) { checkExpiry(t, c, follower) })
	t.Run("renewals cost little processor time and no log entries", func(t *testing.T) { checkRenewals(t, c) })
	t.Run("the expiry of all nodes at once is held back", func(t *testing.T) { checkHeld(t, c) })
	checkDense(t, c.Instances[0].Client)
}

func checkExpiry(t *testing.T, c *harness.Cluster, follower *harness.Follower) {
	const all, silent, ttl = 200, 30, 2
	nodes := leased("some", all, ttl)
	nodes[1].State = "draining" // it must be draining again after it was down
	before := list(t, c.Instances[0].Client).Revision
	register(t, c.Instances[1].Client, nodes)
	a := startAgents(t, c, agents, nodes)
	stopped := idsOf(nodes[:silent])
	a.Drop(stopped...)
	harness.Eventually(t, "the silent nodes expire", func() error {
		if n := len(expired(follower.Changes())); n < silent {
			return fmt.Errorf("expired nodes = %d, want %d", n, silent)
		}
		return nil
	})
	a.Await(t) // any other node that was going to expire would have by now
	var late []time.Duration
	for id, change := range expired(follower.Changes()) {
		if !slices.Contains(stopped, id) {
			t.Errorf("%s was renewed, but expired", id)
			continue
		}
		checkExpired(t, change)
		last := a.Last(id)
		if lived := change.At.Sub(last.Sent); lived < ttl*time.Second {
			t.Errorf("%s expired %v after its last renewal was sent, want at least %d s", id, lived, ttl)
		}
		late = append(late, change.At.Sub(last.Acknowledged)-ttl*time.Second)
	}
	slices.Sort(late)
	longest := late[len(late)-1]
	t.Logf("time from the end of a lease to the expiry of its node: median %v, at most %v",
		median(late).Round(time.Millisecond), longest.Round(time.Millisecond))
	if longest > maxLate {
		t.Errorf("a node expired %v after the end of its lease, want at most %v", longest, maxLate)
	}
	if got, want := list(t, c.Instances[2].Client).Revision, before+all+silent; got != want {
		t.Errorf("revision = %d, want %d: renewals must not change it", got, want)
	}
	checkRevival(t, c, nodes[:silent])
	counts := a.Counts()
	t.Logf("renewals: %d acknowledged, %d failed, the longest time between two of a node was %v",
		counts.Acknowledged, counts.Failed, counts.Longest.Round(time.Millisecond))
	a.Stop()
	removeAll(t, c, nodes)
}

// checkExpired fails the test unless change is the right effect of expiry on its node.
func checkExpired(t *testing.T, change harness.Change) {
	t.Helper()
	switch {
	case change.Node.OnExpiry != "down":
		if change.Type != "removed" {
			t.Errorf("effect of expiry on a node with on_expiry remove = %s, want removed: %+v", change.Type, change)
		}
	case change.Type != "updated" || change.Node.State != "down" || change.Previous == nil || change.Previous.State == "down":
		t.Errorf("effect of expiry on a node with on_expiry down = %s, want updated from another state to down: %+v", change.Type, change)
	}
}

// checkRevival renews expired nodes: those that are down return to their former
// state, and the others are gone.
func checkRevival(t *testing.T, c *harness.Cluster, nodes []harness.Node) {
	t.Helper()
	for n, node := range nodes {
		through := c.Instances[n/2%len(c.Instances)]
		before := list(t, through.Client)
		stored, err := through.Heartbeat(t.Context(), node.ID)
		if node.OnExpiry != "down" {
			if problem := problemOf(t, err); problem.Status != 404 || problem.Code != "node_not_found" {
				t.Errorf("heartbeat of %s, which was removed: error = %v, want 404 node_not_found", node.ID, problem)
			}
			continue
		}
		want := node.State
		if want == "" {
			want = "active"
		}
		if err != nil || stored.State != want || stored.Revision != before.Revision+1 || stored.Seen != stored.Revision {
			t.Fatalf("heartbeat of %s, which was down, = %+v, %v, want state %s at revision %d", node.ID, stored, err, want, before.Revision+1)
		}
		change := history(t, through.Client, before.Revision, stored.Revision)[0]
		if change.Type != "updated" || change.Reason != "request" || change.Previous.State != "down" {
			t.Errorf("change by the heartbeat of %s = %+v, want an update on request, from down", node.ID, change)
		}
		again, err := through.Heartbeat(t.Context(), node.ID)
		if err != nil || again.Seen != stored.Seen || again.Revision != stored.Revision {
			t.Errorf("second heartbeat of %s = %+v, %v, want no change of %+v", node.ID, again, err, stored)
		}
	}
}

// removeAll removes those of the nodes that still exist.
func removeAll(t *testing.T, c *harness.Cluster, nodes []harness.Node) {
	t.Helper()
	there := list(t, c.Instances[0].Client).Nodes
	var changes []harness.BatchChange
	for _, node := range nodes {
		if there[node.ID].ID != "" {
			changes = append(changes, harness.BatchChange{Remove: node.ID})
		}
	}
	if _, err := c.Instances[0].Batch(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
}

func checkHeld(t *testing.T, c *harness.Cluster) {
	const all, ttl = 1000, 3
	nodes := leased("all", all, ttl)
	register(t, c.Instances[0].Client, nodes)
	a := startAgents(t, c, agents, nodes)
	leader := c.Leader()
	before := list(t, leader.Client).Revision
	gone := func() map[string]harness.Change {
		return expired(history(t, leader.Client, before, list(t, leader.Client).Revision))
	}

	a.Drop(idsOf(nodes)...)
	harness.Eventually(t, "all nodes are overdue", func() error { return heldIs(t, leader, "all", all) })
	awaitLog(t, leader, "expiry is held back")
	pass(t, ttl*time.Second) // nothing may expire in this time
	if err := heldIs(t, leader, "all", all); err != nil {
		t.Error(err)
	}
	t.Logf("of %d nodes whose renewals stopped at once, %d have expired", all, len(gone()))
	if len(gone()) > 0 {
		t.Errorf("expired nodes while expiry is held back = %d of %d, want none", len(gone()), all)
	}

	// All nodes return, as after a fault that they had in common.
	a.Resume(idsOf(nodes)...)
	awaitLog(t, leader, "expiry goes on")
	a.Await(t)
	if lost := len(gone()); lost > 0 {
		t.Fatalf("expired nodes after all renewed again = %d of %d, want none", lost, all)
	}

	// Four of five nodes return. The remaining fifth is a small enough share to be
	// taken for dead.
	a.Drop(idsOf(nodes)...)
	harness.Eventually(t, "all nodes are overdue", func() error { return heldIs(t, leader, "all", all) })
	back, silent := nodes[:all*4/5], idsOf(nodes[all*4/5:])
	a.Resume(idsOf(back)...)
	awaitExpired(t, c, before, len(silent))
	a.Await(t)
	for id := range gone() {
		if !slices.Contains(silent, id) {
			t.Errorf("%s was renewed again, but expired", id)
		}
	}

	checkForced(t, c, a, back)
	a.Stop()
	removeAll(t, c, nodes)
}

// checkForced stops the renewals of all nodes at once and has an operator expire them.
func checkForced(t *testing.T, c *harness.Cluster, a *harness.Agents, nodes []harness.Node) {
	t.Helper()
	leader, through := c.Leader(), c.Followers()[0]
	a.Await(t)
	before := list(t, leader.Client).Revision
	a.Drop(idsOf(nodes)...)
	harness.Eventually(t, "all nodes are overdue", func() error { return heldIs(t, leader, "all", len(nodes)) })
	if other, err := through.ExpirePool(t.Context(), "some"); err != nil || len(other.IDs) != 0 || other.Revision != before {
		t.Errorf("forced expiry of another pool = %+v, %v, want no effect", other, err)
	}
	began := time.Now()
	did, err := through.ExpirePool(t.Context(), "all")
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(did.IDs)
	if !slices.Equal(did.IDs, idsOf(nodes)) || did.Revision != before+uint64(len(nodes)) {
		t.Errorf("forced expiry expired %d nodes and led to revision %d, want %d and %d", len(did.IDs), did.Revision, len(nodes), before+uint64(len(nodes)))
	}
	t.Logf("an operator had %d nodes expire through a follower in %v", len(did.IDs), took.Round(time.Millisecond))
	for _, change := range expired(history(t, leader.Client, before, did.Revision)) {
		checkExpired(t, change)
	}
	harness.Eventually(t, "no expiry is held back any more", func() error {
		ready, err := leader.Ready(t.Context())
		if err == nil && len(ready.ExpiryHeld) > 0 {
			err = fmt.Errorf("readiness is %+v", ready)
		}
		return err
	})
}

// heldIs returns nil if the expiry of that many nodes of this pool is held back, and
// of no other pool.
func heldIs(t *testing.T, leader *harness.Instance, pool string, overdue int) error {
	t.Helper()
	answer, err := leader.Do(t.Context(), "GET", "/readyz", nil)
	if err != nil {
		return err
	}
	ready, err := leader.Ready(t.Context())
	if err != nil {
		return err
	}
	if held := ready.ExpiryHeld; answer.Status != 200 || len(held) != 1 || held[0].Pool != pool || held[0].Overdue != overdue || held[0].Leased < overdue {
		return fmt.Errorf("readyz answers %d with %+v: %s", answer.Status, held, strings.TrimSpace(string(answer.Body)))
	}
	return nil
}
