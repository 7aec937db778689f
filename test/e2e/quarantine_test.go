package e2e_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// A write is acknowledged by a and b; then b loses its disk and a its process. c
// has never received the write, and must not be elected with the vote of b.
func TestAVoterThatLostItsDiskGrantsNoVote(t *testing.T) {
	allBackends(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		leader, followers := c.Leader(), c.Followers()
		forgetful, late := followers[0], followers[1]
		put(t, leader.Client, "before")
		awaitRevision(t, late, 1)
		late.Pause()
		put(t, leader.Client, "acknowledged")

		leader.BeginKill()
		forgetful.Kill()
		leader.AwaitExit()
		forgetful.Wipe()
		forgetful.Start()
		late.Resume()
		harness.Eventually(t, "the instance that lost its disk rejects requests for votes", func() error {
			rejected, err := rejectedPrefaces(t, forgetful)
			if err == nil && rejected < 5 {
				err = fmt.Errorf("rejected connections = %v, want at least 5", rejected)
			}
			return err
		})
		harness.Eventually(t, "the late instance no longer follows the killed leader", func() error {
			ready, err := late.Ready(t.Context())
			if err == nil && ready.LeaderID == leader.ID {
				err = fmt.Errorf("readiness = %+v", ready)
			}
			return err
		})
		for _, i := range []*harness.Instance{forgetful, late} {
			if ready, err := i.Ready(t.Context()); err != nil || ready.Leading || ready.LeaderID != "" {
				t.Errorf("readiness of %s = %+v, %v, want no leader", i.ID, ready, err)
			}
		}

		leader.Start()
		c.AwaitReady()
		checkMembers(t, c)
		for _, i := range c.Instances {
			awaitRevision(t, i, 2)
			if got := list(t, i.Client); got.Nodes["acknowledged"].ID == "" {
				t.Errorf("%s has lost an acknowledged write: %+v", i.ID, got)
			}
		}
		checkDense(t, forgetful.Client)
		// The instance is a voter again.
		late.Kill()
		harness.Eventually(t, "a write for which both remaining voters are needed", func() error {
			_, err := forgetful.Put(t.Context(), harness.NewNode("counted"))
			return err
		})
	})
}

func TestAnInstanceWithMemoryStorageRejoinsByItself(t *testing.T) {
	t.Parallel() // see calm
	for name, change := range map[string]func(c *harness.Cluster, i *harness.Instance){
		"with --join":         func(c *harness.Cluster, i *harness.Instance) { joins(c, i) },
		"with the same flags": func(*harness.Cluster, *harness.Instance) {},
	} {
		t.Run(name, func(t *testing.T) {
			c := harness.Start(t, harness.Options{Backend: "memory", Flags: calm})
			for n, i := range []*harness.Instance{c.Followers()[0], c.Leader()} {
				put(t, c.Leader().Client, fmt.Sprintf("n%d", n))
				change(c, i)
				i.Kill()
				i.Start()
				c.AwaitReady()
				checkMembers(t, c)
				checkDense(t, i.Client)
			}
		})
	}
}

func TestAnInstanceThatLostItsDiskJoinsAtAnotherAddress(t *testing.T) {
	c := harness.Start(t, harness.Options{Flags: calm})
	lost := c.Followers()[0]
	put(t, lost.Client, "a")
	lost.Kill()
	lost.Wipe()
	lost.RaftBind = harness.Address(t, "127.0.0.1")
	lost.RaftAddress = lost.RaftBind
	joins(c, lost)
	lost.Start()
	c.AwaitReady()
	checkMembers(t, c)
	checkDense(t, lost.Client)
}

// The wiped instance founds a second cluster under its old id, which must not
// disturb the first cluster.
func TestAWipedInstanceThatIsBootstrappedIsRefused(t *testing.T) {
	t.Parallel() // see calm
	c := harness.Start(t, harness.Options{Flags: calm})
	first := c.Instances[0]
	put(t, first.Client, "a")
	before := metadata(t, first.Client).ClusterID
	first.Kill()
	first.Wipe()
	first.Start() // with --bootstrap_raft_cluster
	first.AwaitReady()
	if after := metadata(t, first.Client).ClusterID; after == before {
		t.Errorf("cluster id after the second bootstrap = %s, want a new one", after)
	}
	harness.Eventually(t, "the others elect a leader among themselves", func() error {
		_, err := c.Instances[1].Put(t.Context(), harness.NewNode("b"))
		return err
	})
	harness.Eventually(t, "a raft connection between the two clusters is rejected", func() error {
		rejected, err := rejectedPrefaces(t, c.Instances...)
		if err == nil && rejected == 0 {
			err = errors.New("no connection was rejected")
		}
		return err
	})
	if got := list(t, c.Instances[1].Client); len(got.Nodes) != 2 {
		t.Errorf("registry of the first cluster = %+v, want 2 nodes", got)
	}
	if got := list(t, first.Client); len(got.Nodes) != 0 {
		t.Errorf("registry of the second cluster = %+v, want no nodes", got)
	}
}

// joins makes i ask all instances of c, including itself, at its next start.
func joins(c *harness.Cluster, i *harness.Instance) {
	var addresses []string
	for _, other := range c.Instances {
		addresses = append(addresses, other.Application)
	}
	i.Flags = append(slices.DeleteFunc(slices.Clone(i.Flags), func(flag string) bool { return flag == "--bootstrap_raft_cluster" }),
		"--join="+strings.Join(addresses, ","))
}

// An instance is removed while it is down, and then started again.
func TestARemovedInstanceReportsItsRemoval(t *testing.T) {
	t.Parallel() // see calm
	c := harness.Start(t, harness.Options{Flags: calm})
	leader, away := c.Leader(), c.Followers()[0]
	away.Kill()
	if err := leader.RaftRemove(t.Context(), away.ID); err != nil {
		t.Fatal(err)
	}
	away.Start()
	harness.Eventually(t, "the removed instance reports that it was removed", func() error {
		ready, err := away.Ready(t.Context())
		if err == nil && (ready.Ready || !strings.Contains(strings.Join(ready.Reasons, "; "), "was removed")) {
			err = fmt.Errorf("readiness = %+v", ready)
		}
		return err
	})
	awaitLog(t, away, "was removed from the raft cluster")
	put(t, leader.Client, "meanwhile")

	away.Stop()
	away.Wipe()
	joins(c, away)
	away.Start()
	c.AwaitReady()
	checkMembers(t, c)
	checkDense(t, away.Client)
}
