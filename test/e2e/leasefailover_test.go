package e2e_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	failoverTTL = 3
	// outlived is longer than a time to live. A node that a new leader expires too
	// early, or that an old leader saw run out, would show within it.
	outlived = (failoverTTL + 1) * time.Second
	// pausedFor is how long a leader is paused.
	pausedFor = 10 * time.Second
)

func TestNoNodeExpiresWhenTheLeaderFails(t *testing.T) {
	t.Parallel() // it mostly waits
	c := harness.Start(t, harness.Options{Proxied: true})
	follower := harness.Follow(t, c.Clients()...)
	nodes := leased("kept", 210, failoverTTL)
	register(t, c.Instances[0].Client, nodes)
	a := startAgents(t, c, 21, nodes)
	before := list(t, c.Instances[0].Client)

	// Each disturbance waits until its consequences would show.
	disturbances := []struct {
		name    string
		disturb func(leader *harness.Instance)
	}{
		{"killed", func(leader *harness.Instance) {
			leader.Kill()
			pass(t, outlived)
			leader.Start()
		}},
		{"paused", func(leader *harness.Instance) {
			leader.Pause()
			awaitSuccessor(t, c, leader)
			pass(t, pausedFor)
			leader.Resume()
			pass(t, outlived)
		}},
		{"cut off", func(leader *harness.Instance) {
			c.CutOff(leader)
			awaitSuccessor(t, c, leader)
			pass(t, outlived)
			c.Heal()
			pass(t, outlived)
		}},
		{"stopped", func(leader *harness.Instance) {
			leader.Stop()
			pass(t, outlived)
			leader.Start()
		}},
	}
	for _, d := range disturbances {
		leader := c.Leader()
		counted := a.Counts()
		d.disturb(leader)
		leader.AwaitReady()
		a.Await(t)
		counts := a.Counts()
		t.Logf("the leader was %s: %d renewals were acknowledged and %d failed; so far the longest time between two of a node was %v",
			d.name, counts.Acknowledged-counted.Acknowledged, counts.Failed-counted.Failed, counts.Longest.Round(time.Millisecond))
	}

	after := list(t, c.Leader().Client)
	if after.Revision != before.Revision {
		for id, change := range expired(history(t, c.Leader().Client, before.Revision, after.Revision)) {
			t.Errorf("%s was renewed all the time, but expired: %+v", id, change)
		}
	}
	sameRegistry(t, "the registry after nothing but renewals", after, before)
	follower.Await(t, after.Revision)
	follower.Stop()
	sameRegistry(t, "the copy of the stream", follower.Registry(), after)
	if err := a.Err(); err != nil {
		t.Errorf("renewals were refused: %v", err)
	}

	// Nodes that stop renewing still expire.
	const silent = 10
	a.Drop(idsOf(nodes[:silent])...)
	awaitExpired(t, c, after.Revision, silent)
}

// A lone instance still leads after a pause, and it has too few nodes for their
// expiry to be held back.
func TestALeaderThatWasPausedExpiresNoNode(t *testing.T) {
	c := harness.Start(t, harness.Options{Size: 1})
	i := c.Instances[0]
	nodes := leased("pair", 2, 2)
	register(t, i.Client, nodes)
	a := startAgents(t, c, 2, nodes)
	before := list(t, i.Client)
	i.Pause()
	pass(t, 3*time.Second)
	i.Resume()
	a.Await(t)
	sameRegistry(t, "the registry after the pause", list(t, i.Client), before)
	if err := a.Err(); err != nil {
		t.Error(err)
	}
	a.Drop(idsOf(nodes)...)
	awaitExpired(t, c, before.Revision, len(nodes))
}

// awaitExpired waits until count nodes have expired since a revision.
func awaitExpired(t *testing.T, c *harness.Cluster, since uint64, count int) {
	t.Helper()
	leader := c.Leader()
	harness.Eventually(t, fmt.Sprintf("%d nodes expire", count), func() error {
		n := len(expired(history(t, leader.Client, since, list(t, leader.Client).Revision)))
		if n < count {
			return fmt.Errorf("expired nodes = %d, want %d", n, count)
		}
		return nil
	})
}

// awaitSuccessor waits until another instance leads. It does not ask the old
// leader, which may be paused.
func awaitSuccessor(t *testing.T, c *harness.Cluster, old *harness.Instance) *harness.Instance {
	t.Helper()
	var successor *harness.Instance
	harness.Eventually(t, "another instance leads", func() error {
		for _, i := range others(c, old) {
			if ready, err := i.Ready(t.Context()); err == nil && ready.Leading {
				successor = i
				return nil
			}
		}
		return errors.New("no other instance leads")
	})
	return successor
}

func others(c *harness.Cluster, one *harness.Instance) []*harness.Instance {
	return slices.DeleteFunc(slices.Clone(c.Instances), func(i *harness.Instance) bool { return i == one })
}
