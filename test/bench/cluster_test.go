// Package bench measures a real cluster of three instances with the default backend, on the
// machine that also makes the load: what counts are the ratios between rows of
// one run.
//
//	make bench BENCH=Cluster
package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func BenchmarkCluster(b *testing.B) {
	cluster := harness.Start(b, harness.Options{Build: harness.Build{Plain: true}})
	leader := cluster.Leader().Application
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("write/clients=%d", clients), func(b *testing.B) {
			// The nodes are few and each write changes one, so the registry
			// does not grow with the number of writes.
			measure(b, leader, clients, func(client, n int) []byte { return put(client%100, n) })
		})
	}
	nodes := 100
	for _, size := range []int{100, 1000, 10_000} {
		fill(b, leader, nodes, size)
		nodes = size
		for _, clients := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("get/nodes=%d/clients=%d", size, clients), func(b *testing.B) {
				request := get("/nodes/" + nodeID(size/2))
				measure(b, leader, clients, func(int, int) []byte { return request })
			})
			b.Run(fmt.Sprintf("list/nodes=%d/clients=%d", size, clients), func(b *testing.B) {
				request := get("/nodes")
				measure(b, leader, clients, func(int, int) []byte { return request })
			})
		}
	}
}

// BenchmarkLeases compares what a renewal costs with a read and with a write of
// the same node, and BenchmarkSources the ways to read.
func BenchmarkLeases(b *testing.B) {
	cluster := harness.Start(b, harness.Options{Build: harness.Build{Plain: true}})
	leader := cluster.Leader().Application
	const leased = 1000
	c := dial(b, leader)
	defer c.close()
	for n := range leased {
		if err := c.do(lease(n)); err != nil {
			b.Fatal(err)
		}
	}
	for _, clients := range []int{1, 64} {
		for _, call := range []struct {
			name    string
			request func(n int) []byte
		}{
			{"renew", func(n int) []byte { return post("/nodes/"+nodeID(n%leased)+"/heartbeat", "") }},
			{"read", func(n int) []byte { return get("/nodes/" + nodeID(n%leased)) }},
			{"write", func(n int) []byte { return lease(n % leased) }}, // it changes nothing, and renews
		} {
			b.Run(fmt.Sprintf("%s/clients=%d", call.name, clients), func(b *testing.B) {
				measure(b, leader, clients, func(_, n int) []byte { return call.request(n) })
			})
		}
	}
}

// BenchmarkSources reads one node from the leader, and from another instance.
func BenchmarkSources(b *testing.B) {
	cluster := harness.Start(b, harness.Options{Build: harness.Build{Plain: true}})
	leader := cluster.Leader()
	fill(b, leader.Application, 0, 1000)
	follower := cluster.Followers()[0]
	for _, clients := range []int{1, 64, 256} {
		for _, way := range []struct{ name, address, query string }{
			{"leader", leader.Application, ""},
			{"follower", follower.Application, "?redirect=false"},
			{"stale", follower.Application, "?consistency=stale"},
		} {
			b.Run(fmt.Sprintf("%s/clients=%d", way.name, clients), func(b *testing.B) {
				request := get("/nodes/" + nodeID(500) + way.query)
				measure(b, way.address, clients, func(int, int) []byte { return request })
			})
		}
	}
}

// BenchmarkBatch makes batches of changes, each of which changes something.
func BenchmarkBatch(b *testing.B) {
	cluster := harness.Start(b, harness.Options{Build: harness.Build{Plain: true}})
	leader := cluster.Leader().Application
	for _, size := range []int{10, 100, 1000} {
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("changes=%d/clients=%d", size, clients), func(b *testing.B) {
				measure(b, leader, clients, func(client, n int) []byte { return batch(client*size, size, n) })
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "changes/s")
			})
		}
	}
}

// BenchmarkFailover kills or stops the leader b.N times and reports the median
// time without an acknowledged write.
func BenchmarkFailover(b *testing.B) {
	ways := []struct {
		name string
		end  func(*harness.Instance)
	}{
		{"kill", (*harness.Instance).BeginKill},
		{"SIGTERM", (*harness.Instance).BeginStop},
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			cluster := harness.Start(b, harness.Options{Build: harness.Build{Plain: true}})
			var gaps []time.Duration
			for b.Loop() {
				leader := cluster.Leader()
				gaps = append(gaps, gap(b, cluster, func() { way.end(leader) }))
				leader.AwaitExit()
				leader.Start()
				cluster.AwaitReady()
			}
			slices.Sort(gaps)
			b.ReportMetric(float64(gaps[len(gaps)/2].Milliseconds()), "median-gap-ms")
			b.ReportMetric(float64(gaps[len(gaps)-1].Milliseconds()), "worst-gap-ms")
		})
	}
}

// gap is the longest time between two acknowledged writes, of a client that asks
// all instances in turn, around what end does.
func gap(b *testing.B, cluster *harness.Cluster, end func()) time.Duration {
	var longest time.Duration
	last := time.Now()
	ended := time.Time{}
	for n := 0; ; n++ {
		if err := write(cluster, n); err != nil {
			if time.Since(last) > harness.Patience {
				b.Fatal(err)
			}
			continue
		}
		now := time.Now()
		longest = max(longest, now.Sub(last))
		last = now
		switch {
		case n < 20:
			longest = 0
		case ended.IsZero():
			end()
			ended, last = time.Now(), time.Now()
		case now.Sub(ended) > 3*time.Second:
			return longest
		}
	}
}

func write(cluster *harness.Cluster, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	node := harness.NewNode("gap")
	node.Weight = &n
	var err error
	for _, i := range cluster.Instances {
		if _, err = i.NotFollowing().Put(ctx, node); err == nil {
			return nil
		}
	}
	return err
}

// measure has the clients send b.N requests in all, each its next one as soon as
// the last is answered.
func measure(b *testing.B, address string, clients int, request func(client, n int) []byte) {
	conns := make([]*conn, clients)
	for i := range conns {
		conns[i] = dial(b, address)
		defer conns[i].close()
	}
	latencies := make([][]time.Duration, clients)
	var next, failed atomic.Int64
	var working sync.WaitGroup
	b.ResetTimer()
	for i, c := range conns {
		working.Go(func() {
			for {
				n := int(next.Add(1))
				if n > b.N {
					return
				}
				began := time.Now()
				if err := c.do(request(i, n)); err != nil {
					if failed.Add(1) == 1 {
						b.Error(err)
					}
					return
				}
				latencies[i] = append(latencies[i], time.Since(began))
			}
		})
	}
	working.Wait()
	b.StopTimer()
	if n := failed.Load(); n > 0 {
		b.Fatalf("%d of %d clients were refused or cut off", n, clients)
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}

// fill registers the nodes from a number on up to another.
func fill(b *testing.B, address string, from, to int) {
	b.Helper()
	var next atomic.Int64
	next.Store(int64(from))
	var working sync.WaitGroup
	for range 64 {
		working.Go(func() {
			c := dial(b, address)
			defer c.close()
			for {
				n := int(next.Add(1)) - 1
				if n >= to {
					return
				}
				if err := c.do(put(n, 1)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
}

func nodeID(n int) string { return fmt.Sprintf("node%05d", n) }

func put(node, weight int) []byte {
	id := nodeID(node)
	body := fmt.Sprintf(`{"id":%q,"address":"10.%d.%d.%d:11211","zone":"eu-1a","weight":%d}`,
		id, node>>16, node>>8&255, node&255, weight%1_000_000)
	return bodied("PUT", "/nodes/"+id, body)
}

// lease registers a node that outlives the benchmark if it is renewed in an hour.
func lease(node int) []byte {
	id := nodeID(node)
	return bodied("PUT", "/nodes/"+id, fmt.Sprintf(`{"address":"%s:11211","ttlSeconds":3600}`, id))
}

// batch gives so many nodes, from one on, another weight.
func batch(from, size, weight int) []byte {
	changes := make([]string, size)
	for i := range changes {
		id := nodeID(from + i)
		changes[i] = fmt.Sprintf(`{"put":{"id":%q,"address":"%s:11211","weight":%d}}`, id, id, weight%1_000_000)
	}
	return post("/nodes/batch", `{"changes":[`+strings.Join(changes, ",")+`]}`)
}

func post(path, body string) []byte { return bodied("POST", path, body) }

func bodied(method, path, body string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		method, path, len(body), body)
}

func get(path string) []byte { return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", path) }
