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
		harness.Eventually(t, "the one without a disk was asked for votes", func() error {
			rejected, err := rejectedPrefaces(t, forgetful)
			if err == nil && rejected < 5 {
				err = fmt.Errorf("it has refused %v connections", rejected)
			}
			return err
		})
		harness.Eventually(t, "the other one has given up its leader", func() error {
			ready, err := late.Ready(t.Context())
			if err == nil && ready.LeaderID == leader.ID {
				err = fmt.Errorf("it is at %+v", ready)
			}
			return err
		})
		for _, i := range []*harness.Instance{forgetful, late} {
			if ready, err := i.Ready(t.Context()); err != nil || ready.Leading || ready.LeaderID != "" {
				t.Errorf("%s has come to %+v, %v", i.ID, ready, err)
			}
		}

		leader.Restart()
		c.AwaitReady()
		checkMembers(t, c)
		for _, i := range c.Instances {
			awaitRevision(t, i, 2)
			if got := list(t, i.Client); got.Nodes["acknowledged"].ID == "" {
				t.Errorf("%s has lost what was acknowledged: %+v", i.ID, got)
			}
		}
		checkDense(t, forgetful.Client)
		// The instance is a voter again.
		late.Kill()
		harness.Eventually(t, "a write that it takes the two of them for", func() error {
			_, err := forgetful.Put(t.Context(), harness.NewNode("counted"))
			return err
		})
	})
}

func TestAnInstanceWithMemoryStorageRejoinsByItself(t *testing.T) {
	t.Parallel() // see calm
	for name, change := range map[string]func(c *harness.Cluster, i *harness.Instance){
		"with --join":           func(c *harness.Cluster, i *harness.Instance) { joins(c, i) },
		"with the flags it had": func(*harness.Cluster, *harness.Instance) {},
	} {
		t.Run(name, func(t *testing.T) {
			c := harness.Start(t, harness.Options{Backend: "memory", Flags: calm})
			for n, i := range []*harness.Instance{c.Followers()[0], c.Leader()} {
				put(t, c.Leader().Client, fmt.Sprintf("n%d", n))
				change(c, i)
				i.Kill()
				i.Restart()
				c.AwaitReady()
				checkMembers(t, c)
				checkDense(t, i.Client)
			}
		})
	}
}

// An instance that lost its disk may come back at another address.
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

// A second cluster under the old name does not concern the first one.
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
		t.Errorf("it has founded cluster %s once more", after)
	}
	harness.Eventually(t, "the others elect a leader among them", func() error {
		_, err := c.Instances[1].Put(t.Context(), harness.NewNode("b"))
		return err
	})
	harness.Eventually(t, "the others refuse it, or are refused", func() error {
		rejected, err := rejectedPrefaces(t, c.Instances...)
		if err == nil && rejected == 0 {
			err = errors.New("no connection was refused")
		}
		return err
	})
	if got := list(t, c.Instances[1].Client); len(got.Nodes) != 2 {
		t.Errorf("the cluster has %+v", got)
	}
	if got := list(t, first.Client); len(got.Nodes) != 0 {
		t.Errorf("the other cluster has %+v", got)
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
	harness.Eventually(t, "it says that it was removed", func() error {
		ready, err := away.Ready(t.Context())
		if err == nil && (ready.Ready || !strings.Contains(strings.Join(ready.Reasons, "; "), "was removed")) {
			err = fmt.Errorf("it says %+v", ready)
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
