package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestALeaderWhoseDiskIsFullIsReplaced(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		disk := harness.SmallDisk(t, 96<<20)
		c, leader := startOn(t, disk, backend)
		troubled(t, c, leader, c.Clients(), disk.Fill, disk.Free, "kB free")
	})
}

func TestALeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		disk := harness.FreezableDisk(t, 128<<20)
		c, leader := startOn(t, disk, backend)
		through, says := c.Clients(), "does not answer"
		if backend == "badger" {
			// Writes to mapped memory wait for the disk, and whatever stops all
			// threads, such as the garbage collector, waits with them. The process
			// behaves as if it were paused and answers nothing.
			through, says = through[1:], ""
		}
		troubled(t, c, leader, through, disk.Freeze, disk.Thaw, says)
	})
}

// startOn returns a cluster whose leader keeps its directory on disk.
func startOn(t *testing.T, disk *harness.Disk, backend string) (*harness.Cluster, *harness.Instance) {
	t.Helper()
	c := harness.New(t, harness.Options{Backend: backend})
	first := c.Instances[0]
	first.Directory = disk.Path(first.ID)
	c.Bootstrap()
	lead(t, c, first)
	return c, first
}

// lead hands leadership to i unless it already leads.
func lead(t *testing.T, c *harness.Cluster, i *harness.Instance) {
	t.Helper()
	harness.Eventually(t, i.ID+" leads", func() error {
		if leader := c.Leader(); leader != i {
			_, err := leader.RaftHandOver(t.Context(), i.ID)
			return errors.Join(fmt.Errorf("%s leads", leader.ID), err)
		}
		return nil
	})
}

// troubled causes and ends trouble with the leader's disk while clients go through
// some of the instances. Meanwhile the leader must report a reason that contains
// says, unless says is empty.
func troubled(t *testing.T, c *harness.Cluster, leader *harness.Instance, through []*harness.Client, begin, end func(), says string) {
	t.Helper()
	load := startLoad(t, 8, through)
	load.awaitMore(t, 200)
	begin()
	other, node := c.Instances[1], harness.NewNode("meanwhile")
	took := harness.Within(t, 8*time.Second, "a write succeeds in spite of the trouble, under another leader", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stored, err := other.Put(ctx, node)
		if err == nil && c.Leader() == leader {
			err = fmt.Errorf("%s still leads, and stored %+v", leader.ID, stored)
		}
		return err
	})
	t.Logf("written %v after the disk of the leader was in trouble", took.Round(time.Millisecond))
	if says != "" {
		awaitReason(t, leader, says)
		load.awaitMore(t, 100)
	}
	end()
	leader.AwaitReady()
	load.awaitMore(t, 100)
	load.end()
	registry := checkDense(t, c.Leader().Client)
	load.check(t, history(t, c.Leader().Client, 0, registry.Revision))
	awaitRevision(t, leader, registry.Revision)
	lead(t, c, leader)
	put(t, leader.Client, "through-the-one-that-was-in-trouble")
	checkMembers(t, c)
}

// awaitReason waits until i is not ready for a reason that contains says.
func awaitReason(t *testing.T, i *harness.Instance, says string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%s says %q", i.ID, says), func() error {
		ready, err := i.Ready(t.Context())
		if err == nil && (ready.Ready || !strings.Contains(strings.Join(ready.Reasons, "; "), says)) {
			err = fmt.Errorf("readiness = %+v", ready)
		}
		return err
	})
}

// Data written to files that were unlinked while open is lost when the process ends.
func TestALeaderWhoseDirectoryIsRemovedIsReplaced(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		leader := c.Instances[1] // the first instance would bootstrap a new cluster if it started blank
		lead(t, c, leader)
		put(t, leader.Client, "before")
		remove(t, leader, "")
		successor := awaitSuccessor(t, c, leader)
		put(t, successor.Client, "after")
		awaitLog(t, leader, "was removed")
		ready, err := leader.Ready(t.Context())
		if err != nil || ready.Ready || !strings.Contains(strings.Join(ready.Reasons, "; "), "was removed") {
			t.Errorf(`readiness of the former leader = %+v, %v, want not ready because its directory "was removed"`, ready, err)
		}
		leader.Kill() // badger could not be closed cleanly
		leader.Start()
		c.AwaitReady()
		awaitSuffrage(t, successor.Client, leader.ID, "voter", true)
		checkDense(t, leader.Client)
	})
}
