package faults

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var fullLoad = flag.Duration("fullload", 0, "how long the leader of each backend must keep leading under as much load as the machine can do; 0: the test is skipped")

const (
	fullWriters, fullReaders = 256, 8
	fullNodes                = 1000
	// fewestPerSecond is far below what a slow machine achieves. A run below it counts as idle.
	fewestPerSecond = 20
)

// The timeouts must be long enough for a busy machine, whose processors servers and
// clients share.
func TestNobodyStandsForElectionUnderFullLoad(t *testing.T) {
	if *fullLoad == 0 {
		t.Skip("this test needs an otherwise idle machine and -fullload=10m")
	}
	for _, backend := range backends(t) {
		t.Run(backend, func(t *testing.T) {
			cluster := harness.Start(t, harness.Options{Backend: backend, Build: harness.Build{Plain: true}})
			leader := cluster.Leader()
			var nodes []harness.Node
			for n := range fullNodes {
				nodes = append(nodes, harness.NewNode(fmt.Sprintf("node-%d", n)))
			}
			if _, err := leader.Batch(t.Context(), harness.Puts(nodes...)); err != nil {
				t.Fatal(err)
			}
			before := candidacies(cluster)
			ctx, cancel := context.WithTimeout(t.Context(), *fullLoad)
			defer cancel()
			writes, lists := work(ctx, t, leader)
			t.Logf("%d writes by %d clients and %d lists by %d in %v", writes, fullWriters, lists, fullReaders, *fullLoad)
			if least := int64(fewestPerSecond * fullLoad.Seconds()); writes < least || lists < least/10 {
				t.Errorf("the load was too small: want at least %d writes and %d lists", least, least/10)
			}
			for _, i := range cluster.Instances {
				if now := candidacies(cluster)[i.ID]; now != before[i.ID] {
					t.Errorf("candidacies of %s = %d, want none", i.ID, now-before[i.ID])
				}
			}
			if now := cluster.Leader(); now != leader {
				t.Errorf("leader = %s, want %s as before", now.ID, leader.ID)
			}
		})
	}
}

// candidacies returns how often each instance stood for election.
func candidacies(c *harness.Cluster) map[string]int {
	times := map[string]int{}
	for _, i := range c.Instances {
		times[i.ID] = strings.Count(i.Log(), `msg="entering candidate state"`)
	}
	return times
}

// work writes to and lists at an instance until ctx ends, and returns how often each
// succeeded. The first failure fails the test and ends it.
func work(ctx context.Context, t *testing.T, i *harness.Instance) (writes, lists int64) {
	t.Helper()
	ctx, end := context.WithCancel(ctx)
	defer end()
	var written, listed atomic.Int64
	var working sync.WaitGroup
	var first sync.Once
	each := func(clients int, count *atomic.Int64, do func(client *harness.Client, n int) error) {
		for n := range clients {
			client := harness.NewClient(t, i.Application)
			working.Go(func() {
				for ; ctx.Err() == nil; n += clients {
					err := do(client, n)
					switch {
					case err == nil:
						count.Add(1)
					case ctx.Err() == nil:
						first.Do(func() { t.Error(err); end() })
					}
				}
			})
		}
	}
	began := time.Now()
	each(fullWriters, &written, func(client *harness.Client, n int) error {
		node := harness.NewNode(fmt.Sprintf("node-%d", n%fullNodes))
		weight := int(time.Since(began).Milliseconds()) % 1_000_000
		node.Weight = &weight
		_, err := client.Put(ctx, node)
		return err
	})
	each(fullReaders, &listed, func(client *harness.Client, _ int) error {
		_, err := client.Do(ctx, http.MethodGet, "/nodes", nil)
		return err
	})
	working.Wait()
	return written.Load(), listed.Load()
}
