package harness_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// Packets dropped in one direction between two hosts affect no other direction and
// no other hosts.
func TestANetworkDropsPacketsBetweenChosenHosts(t *testing.T) {
	network := harness.NewNetwork(t, 3)
	c := harness.Start(t, harness.Options{Network: network, Flags: []string{
		"--raft_heartbeat_timeout=1s", "--raft_election_timeout=1s",
	}})
	leader, followers := c.Leader(), c.Followers()
	reach := func(i *harness.Instance) error {
		_, err := i.With("redirect=false").List(t.Context())
		return err
	}

	// The leader's packets to a follower are lost: the follower hears nothing from
	// the leader, and can't tell how far behind it is. The other two go on.
	network.Drop(leader.Host, followers[0].Host)
	harness.Eventually(t, "a follower that hears nothing refuses to read", func() error {
		if reach(followers[0]) == nil {
			return errors.New("the follower still reads")
		}
		return nil
	})
	if err := reach(followers[1]); err != nil {
		t.Errorf("read from the undisturbed follower: %v", err)
	}
	network.Heal()
	harness.Eventually(t, "the follower reads again", func() error { return reach(followers[0]) })

	// The test itself is host 0.
	network.Cut([]int{0}, []int{leader.Host})
	began := time.Now()
	if _, err := harness.NewClient(t, leader.Application).Ready(t.Context()); err == nil {
		t.Error("a request to a host that the test is cut off from succeeded")
	} else if took := time.Since(began); took < time.Second {
		t.Errorf("a request failed after only %v, want dropped packets to go unnoticed: %v", took, err)
	}
	network.Heal()
	if _, err := harness.NewClient(t, leader.Application).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAFullDiskAffectsOnlyItsInstance(t *testing.T) {
	network := harness.NewNetwork(t, 1)
	c := harness.New(t, harness.Options{Size: 1, Network: network, DiskSize: 64 << 20})
	i := c.Instances[0]
	harness.FillDisks(i)
	i.Launch()
	if status := i.AwaitExit(); status == 0 || !strings.Contains(i.LastLog(), "no space left on device") {
		t.Errorf("exit status with a full disk = %d, want an error that says so:\n%s", status, i.LastLog())
	}
	i.FreeDisk()
	c.Bootstrap()
	if entries, err := os.ReadDir(i.Directory); err != nil || len(entries) != 0 {
		t.Errorf("entries in the mount point outside of the instance's host = %v, %v, want none", entries, err)
	}
}
