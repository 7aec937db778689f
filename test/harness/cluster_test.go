package harness_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestAClusterIsKilledPausedAndStopped(t *testing.T) {
	c := harness.Start(t, harness.Options{Proxied: true})
	follower := harness.Follow(t, c.Clients()...)
	leader := c.Leader()
	put := func(through *harness.Instance, id string) uint64 {
		t.Helper()
		var stored harness.Stored
		harness.Eventually(t, "a write", func() error {
			var err error
			stored, err = through.Put(t.Context(), harness.NewNode(id))
			return err
		})
		return stored.Seen
	}
	for _, i := range c.Instances {
		put(i, i.ID)
	}
	leader.Kill()
	if leader.Running() {
		t.Error("a killed instance is still running")
	}
	other := c.Leader()
	put(other, "after-kill")
	leader.Start()
	leader.AwaitReady()
	other.Pause()
	harness.Eventually(t, "another leader", func() error {
		// A redirect to the paused instance leads nowhere.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := leader.Put(ctx, harness.NewNode("after-pause"))
		return err
	})
	other.Resume()
	other.AwaitReady()
	cut := c.Leader()
	c.CutOff(cut)
	harness.Eventually(t, "another leader", func() error {
		for _, i := range c.Instances {
			if ready, err := i.Ready(t.Context()); i != cut && err == nil && ready.Leading {
				return nil
			}
		}
		return errors.New("no other instance leads")
	})
	c.Heal()
	cut.AwaitReady()
	last := put(other, "end")
	follower.Await(t, last)
	follower.Stop()
	registry, err := leader.List(t.Context())
	if err != nil || len(registry.Nodes) != 6 || registry.Revision != follower.Registry().Revision {
		t.Errorf("registry = %+v, %v, want 6 nodes, as in the copy of the stream, %+v", registry, err, follower.Registry())
	}
	for _, i := range c.Instances {
		i.Stop()
	}
}

func TestAnAddressIsFreeAndReservedOnce(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		address := harness.Address(t, "127.0.0.1")
		if seen[address] {
			t.Fatalf("Address gave %s twice", address)
		}
		seen[address] = true
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = listener.Close()
	}
}

func TestWithinReturnsHowLongItTook(t *testing.T) {
	began := time.Now()
	took := harness.Within(t, harness.Patience, "a while", func() error {
		if time.Since(began) < late {
			return net.ErrClosed
		}
		return nil
	})
	if took < late {
		t.Errorf("Within = %v, want at least %v", took, late)
	}
}
