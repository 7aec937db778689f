package faults

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// density says how much clients do. Each instance has clients that operate at
// random, of whose operations reads percent are reads and which pause for think
// between operations, and has streams followers.
type density struct {
	clients, reads, streams int
	think                   time.Duration
}

var (
	// light leaves most of the machine to the faults: throughput is not what is tested.
	light = density{clients: 2, reads: 60, streams: 1, think: 10 * time.Millisecond}
	// ofReads is for finding stale reads.
	ofReads = density{clients: 6, reads: 97, streams: 1}
	// ofStreams has many streams.
	ofStreams = density{clients: 1, reads: 20, streams: 30, think: 10 * time.Millisecond}
)

const (
	// A pulse is a write that begins at a fixed pace, whatever became of the one
	// before, and so shows when writes succeed.
	pulseEvery = 10 * time.Millisecond
	pulseNodes = 16
	// patience is the timeout of clients. It is longer than any request may take.
	patience = 12 * time.Second
	// The number of nodes with a time to live and of agents that renew them, and
	// the time to live in seconds.
	leased, agents, timeToLive = 12, 3, 10
	// lookEvery is how often each instance is asked whether it leads.
	lookEvery = 50 * time.Millisecond
)

// load is everything that clients do to a cluster, and what they observe.
type load struct {
	density
	t        testing.TB
	cluster  *harness.Cluster
	random   []*harness.Client // for random operations
	pulsing  []*harness.Client
	values   atomic.Int64
	renewing *harness.Agents
	followed map[string]*harness.Follower
	watching sync.WaitGroup
	probe    *os.File

	mu        sync.Mutex
	writes    []history.Write
	exchanges []harness.Exchange
	stalls    []span // see evidence
	leads     map[uint64][]string
}

func newLoad(t testing.TB, c *harness.Cluster, d density) *load {
	t.Helper()
	l := &load{density: d, t: t, cluster: c, followed: map[string]*harness.Follower{}, leads: map[uint64][]string{}}
	var all, addresses []*harness.Client
	for _, i := range c.Instances {
		for range d.clients {
			l.random = append(l.random, harness.NewClient(t, i.Application).Observed(l.see))
		}
		l.pulsing = append(l.pulsing, harness.NewClient(t, i.Application).Observed(l.see))
		addresses = append(addresses, i.Client)
		all = append(all, harness.NewClient(t, i.Application).With("redirect=false"))
		for n := range d.streams {
			itself := harness.NewClient(t, i.Application).With("redirect=false")
			l.followed[fmt.Sprintf("stream %d of %s", n+1, i.ID)] = harness.Follow(t, itself)
		}
	}
	l.followed["the stream of a client that alternates between instances"] = harness.Follow(t, all...)
	l.openProbe()
	l.startAgents(addresses)
	l.watch()
	return l
}

func (l *load) startAgents(clients []*harness.Client) {
	l.t.Helper()
	var nodes []harness.Node
	var ids, addresses []string
	for n := range leased {
		node := harness.NewNode(fmt.Sprintf("kept-%d", n))
		node.TTLSeconds = timeToLive
		nodes, ids = append(nodes, node), append(ids, node.ID)
	}
	if _, err := clients[0].Batch(l.t.Context(), harness.Puts(nodes...)); err != nil {
		l.t.Fatal(err)
	}
	for _, client := range clients {
		addresses = append(addresses, client.Address())
	}
	l.renewing = harness.StartAgents(l.t, agents, addresses, ids)
}

// watch records which instances say that they lead, until the test ends.
func (l *load) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	l.t.Cleanup(func() { cancel(); l.watching.Wait() })
	for _, i := range l.cluster.Instances {
		client := harness.NewClient(l.t, i.Application)
		l.watching.Go(func() {
			for ctx.Err() == nil {
				ready, err := client.Ready(ctx)
				if err == nil && ready.Leading {
					l.led(ready.Term, i.ID)
				}
				select {
				case <-ctx.Done():
				case <-time.After(lookEvery):
				}
			}
		})
	}
}

// led records that an instance leads in a term.
func (l *load) led(term uint64, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.leads[term], id) {
		l.leads[term] = append(l.leads[term], id)
	}
}

// see records an exchange.
func (l *load) see(e harness.Exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exchanges = append(l.exchanges, e)
}

// acknowledge records an acknowledged write.
func (l *load) acknowledge(w history.Write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = append(l.writes, w)
}

// acknowledged returns all acknowledged writes so far.
func (l *load) acknowledged() []history.Write {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.writes)
}

// begin starts all clients, which work until end is called, and returns the round of
// the clients that operate at random.
func (l *load) begin(name string) (r *history.Round, end func()) {
	l.mu.Lock()
	l.writes, l.exchanges, l.stalls = nil, nil, nil
	l.mu.Unlock()
	r = history.New(history.Config{
		Name: name, Clients: l.random, Here: "redirect=false", Values: &l.values, Timeout: patience,
		Think: l.think, Reads: l.reads, Batches: true, Acknowledged: l.acknowledge,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { r.Run(ctx) })
	working.Go(func() { l.pulse(ctx, name) })
	working.Go(func() { l.probeDisk(ctx) })
	end = sync.OnceFunc(func() {
		cancel()
		working.Wait()
	})
	l.t.Cleanup(end)
	return r, end
}

// pulse begins a write every pulseEvery, through one instance after the other.
func (l *load) pulse(ctx context.Context, name string) {
	ticker := time.NewTicker(pulseEvery)
	defer ticker.Stop()
	var writing sync.WaitGroup
	defer writing.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case due := <-ticker.C:
			l.stalled(due)
		}
		writing.Go(func() { l.write(l.pulsing[n%len(l.pulsing)], fmt.Sprintf("%s-pulse-%d", name, n%pulseNodes)) })
	}
}

func (l *load) write(through *harness.Client, id string) {
	value := int(l.values.Add(1))
	node := harness.NewNode(id)
	node.Weight = &value
	began := time.Now()
	stored, err := through.Put(context.Background(), node) // the client has a timeout of its own
	if err == nil {
		l.acknowledge(history.Write{Node: id, Value: value, Revision: stored.Revision, Began: began, At: time.Now()})
	}
}

// awaitOperations waits until a round has enough operations.
func (l *load) awaitOperations(r *history.Round) {
	l.t.Helper()
	harness.Eventually(l.t, "the clients complete enough operations", func() error {
		if got := r.Count(); got < fewestOperations {
			return fmt.Errorf("%d operations of %d", got, fewestOperations)
		}
		return nil
	})
}

// awaitMore waits until n more writes are acknowledged.
func (l *load) awaitMore(n int) {
	l.t.Helper()
	goal := len(l.acknowledged()) + n
	harness.Eventually(l.t, "more writes are acknowledged", func() error {
		if got := len(l.acknowledged()); got < goal {
			return fmt.Errorf("%d acknowledged writes of %d", got, goal)
		}
		return nil
	})
}

// awaitAfter waits for an acknowledged write that began after moment, and returns how
// long after moment its answer came.
func (l *load) awaitAfter(moment time.Time) time.Duration {
	l.t.Helper()
	var took time.Duration
	harness.Eventually(l.t, "a write succeeds after the fault", func() error {
		for _, write := range l.acknowledged() {
			if write.Began.After(moment) {
				took = write.At.Sub(moment)
				return nil
			}
		}
		return fmt.Errorf("no write that began after the fault was acknowledged in %v", time.Since(moment))
	})
	return took
}

// gapSince returns the longest time without an acknowledged write, of those that
// ended after moment.
func gapSince(writes []history.Write, moment time.Time) span {
	var times []time.Time
	for _, write := range writes {
		times = append(times, write.At)
	}
	slices.SortFunc(times, time.Time.Compare)
	var longest span
	for n := 1; n < len(times); n++ {
		if gap := (span{times[n-1], times[n]}); gap.to.After(moment) && gap.length() > longest.length() {
			longest = gap
		}
	}
	return longest
}
