package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// memory watches the resident memory of processes.
type memory struct {
	cancel    context.CancelFunc
	done      sync.WaitGroup
	instances []*harness.Instance
	before    []int64
	highest   []int64
}

func watchMemory(t *testing.T, c *harness.Cluster) *memory {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &memory{cancel: cancel, instances: c.Instances}
	for _, i := range m.instances {
		m.before = append(m.before, i.ResidentBytes())
	}
	m.highest = append(m.highest, m.before...)
	m.done.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			for n, i := range m.instances {
				m.highest[n] = max(m.highest[n], i.ResidentBytes())
			}
		}
	})
	t.Cleanup(m.stop)
	return m
}

func (m *memory) stop() {
	m.cancel()
	m.done.Wait()
}

// check stops watching and fails the test if a process has grown too much.
func (m *memory) check(t *testing.T) {
	t.Helper()
	m.stop()
	for n, i := range m.instances {
		t.Logf("memory of %s: %d MiB before, %d MiB at most", i.ID, m.before[n]>>20, m.highest[n]>>20)
		if growth := m.highest[n] - m.before[n]; growth > maxGrowth {
			t.Errorf("the memory of %s has grown by %d MiB, want at most %d MiB", i.ID, growth>>20, maxGrowth>>20)
		}
	}
}

// maxIdle is what three idle instances may take together. afterWrites is what they
// may take, by backend, soon after many more changes than the history holds.
const maxIdle = 100 << 20

var afterWrites = map[string]int64{"bolt": 100 << 20, "badger": 110 << 20, "wal": 100 << 20}

const manyBatches = 300

func TestIdleInstancesTakeLittleMemory(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Build: harness.Build{Plain: true}})
		for n, i := range c.Instances {
			put(t, i.Client, []string{"a", "b", "c"}[n])
		}
		total := resident(c)
		t.Logf("three idle instances take %.1f MiB", mib(total))
		if total > maxIdle {
			t.Errorf("three idle instances take %d MiB, want at most %d MiB", total>>20, maxIdle>>20)
		}
	})
}

func TestInstancesThatHaveWrittenMuchTakeLittleMemory(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: calm, Build: harness.Build{Plain: true}})
		leader := c.Leader()
		for n := range manyBatches {
			if _, err := leader.Batch(t.Context(), sameNodes(n)); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("after %d changes three instances take %.1f MiB", manyBatches*100, mib(resident(c)))
		harness.Eventually(t, "memory is given back", func() error {
			if total := resident(c); total > afterWrites[backend] {
				return fmt.Errorf("three instances take %.1f MiB, want at most %.1f MiB", mib(total), mib(afterWrites[backend]))
			}
			return nil
		})
		t.Logf("a little later they take %.1f MiB", mib(resident(c)))
	})
}

// sameNodes returns changes to a hundred nodes, which differ for each n.
func sameNodes(n int) []harness.BatchChange {
	nodes := make([]harness.Node, 100)
	for i := range nodes {
		nodes[i] = harness.NewNode(fmt.Sprintf("node-%02d", i))
		nodes[i].Weight = &n
	}
	return harness.Puts(nodes...)
}

// resident returns the resident memory of all instances together, in bytes.
func resident(c *harness.Cluster) (total int64) {
	for _, i := range c.Instances {
		total += i.ResidentBytes()
	}
	return total
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
