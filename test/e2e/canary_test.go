package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// canary is a client that keeps writing and reading, through one instance after the
// other, while a test does harm to them. Every call has to succeed.
type canary struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	calls   int
	slowest time.Duration
	faults  []error
}

// canaryPatience is how long a call of a canary may take: far longer than an
// undisturbed call.
const canaryPatience = 2 * time.Second

func startCanary(t *testing.T, c *harness.Cluster) *canary {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := &canary{cancel: cancel}
	clients := c.Clients()
	k.done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			k.call(ctx, clients[n%len(clients)], n)
		}
	})
	t.Cleanup(k.stop)
	return k
}

func (k *canary) stop() {
	k.cancel()
	k.done.Wait()
}

func (k *canary) call(ctx context.Context, through *harness.Client, n int) {
	began := time.Now()
	node := harness.NewNode("canary")
	node.Zone = fmt.Sprint(n)
	_, err := through.Put(ctx, node)
	if err == nil {
		_, err = through.Get(ctx, node.ID)
	}
	took := time.Since(began)
	k.mu.Lock()
	defer k.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	k.calls++
	k.slowest = max(k.slowest, took)
	if err == nil && took > canaryPatience {
		err = fmt.Errorf("a call took %v, want at most %v", took, canaryPatience)
	}
	if err != nil && len(k.faults) < 5 {
		k.faults = append(k.faults, err)
	}
}

// await waits until the canary has made n calls in total.
func (k *canary) await(t *testing.T, n int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("the canary has made %d calls", n), func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.calls < n {
			return fmt.Errorf("calls made = %d: %w", k.calls, errors.Join(k.faults...))
		}
		return nil
	})
}

// rate returns the number of calls per second.
func (k *canary) rate(t *testing.T) float64 {
	t.Helper()
	count := func() int {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.calls
	}
	before, began := count(), time.Now()
	select {
	case <-time.After(window):
	case <-t.Context().Done():
	}
	return float64(count()-before) / time.Since(began).Seconds()
}

// check stops the canary and fails the test if one of its calls failed.
func (k *canary) check(t *testing.T) {
	t.Helper()
	k.stop()
	t.Logf("the canary made %d calls, the slowest took %v", k.calls, k.slowest.Round(time.Millisecond))
	for _, err := range k.faults {
		t.Errorf("a call of the canary failed: %v", err)
	}
}
