package e2e_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// memory watches how much memory processes have resident.
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

// check stops the watch and fails the test if a process has taken on too much.
func (m *memory) check(t *testing.T) {
	t.Helper()
	m.stop()
	for n, i := range m.instances {
		t.Logf("memory of %s: %d MiB before, %d MiB at most", i.ID, m.before[n]>>20, m.highest[n]>>20)
		if growth := m.highest[n] - m.before[n]; growth > maxGrowth {
			t.Errorf("the memory of %s has grown by %d MiB", i.ID, growth>>20)
		}
	}
}

// maxIdle is what three idle instances may take together.
const maxIdle = 100 << 20

func TestIdleInstancesTakeLittleMemory(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Build: harness.Build{Plain: true}})
		for n, i := range c.Instances {
			put(t, i.Client, []string{"a", "b", "c"}[n])
		}
		var total int64
		for _, i := range c.Instances {
			total += i.ResidentBytes()
		}
		t.Logf("three idle instances take %.1f MiB", float64(total)/(1<<20))
		if total > maxIdle {
			t.Errorf("three idle instances take %d MiB", total>>20)
		}
	})
}
