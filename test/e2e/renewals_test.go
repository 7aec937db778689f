package e2e_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	// Processor time is measured in short turns that alternate between renewals and
	// a baseline, so that other load on the machine affects both.
	turns  = 3
	turn   = 2500 * time.Millisecond
	settle = 500 * time.Millisecond
	// maxBusy is the share of one core that renewals may cost, in all three
	// processes, beyond the same number of the cheapest requests.
	maxBusy = 0.10
)

// checkRenewals measures the cost of renewals. Most of it is that of any request:
// on the machine where this was written, a Go program that only wakes up a thousand
// times a second to say hello takes 8 % of a core.
func checkRenewals(t *testing.T, c *harness.Cluster) {
	const all, ttl = 1000, 60
	idle := busy(t, c, turn)
	nodes := leased("many", all, ttl)
	register(t, c.Instances[0].Client, nodes)
	a := startAgents(t, c, agents, nodes)
	pass(t, settle)
	before := logOf(t, c)
	var renewing, pinging, costs []float64
	renewals, pings := 0, 0
	for range turns {
		a.Resume(idsOf(nodes)...)
		pass(t, settle)
		counted := a.Counts().Acknowledged
		renewing = append(renewing, busy(t, c, turn))
		counted = a.Counts().Acknowledged - counted
		a.Drop(idsOf(nodes)...)

		p := startPings(t, c, agents, all/agents)
		pass(t, settle)
		made := p.made.Load()
		pinging = append(pinging, busy(t, c, turn))
		made = p.made.Load() - made
		p.stop()

		renewals, pings = renewals+counted, pings+int(made)
		last := len(renewing) - 1
		costs = append(costs, renewing[last]-idle-(pinging[last]-idle)*float64(counted)/float64(made))
	}
	after := logOf(t, c)
	rate := float64(renewals) / (turns * turn).Seconds()
	t.Logf("of a core, three processes take %.1f %% with %.0f renewals in a second, of which followers redirect two thirds, "+
		"%.1f %% with the requests of %.0f that are for /livez instead, and %.1f %% with none; renewals take %.1f %% more than those",
		100*median(renewing), rate, 100*median(pinging), float64(pings)/(turns*turn).Seconds(), 100*idle, 100*median(costs))
	if cost := median(costs); cost > maxBusy {
		t.Errorf("%.0f renewals in a second take %.1f %% of a core more than the same requests to /livez, want at most %.0f %%", rate, 100*cost, 100*maxBusy)
	}
	if rate < 0.9*all {
		t.Errorf("renewals in a second = %.0f, want at least %.0f", rate, 0.9*all)
	}
	for n, i := range c.Instances {
		if before[n] != after[n] {
			t.Errorf("progress of %s after nothing but renewals = %+v, want %+v as before", i.ID, after[n], before[n])
		}
	}
	if err := a.Err(); err != nil {
		t.Errorf("renewals were refused: %v", err)
	}
	a.Stop()
	removeAll(t, c, nodes)
}

// pinger requests /livez as often, through the same instances and at the same
// times, as that many agents with that many nodes each make requests, redirects
// included.
type pinger struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	made   atomic.Int64 // number of renewals that its requests stand for
}

func startPings(t *testing.T, c *harness.Cluster, agents, nodes int) *pinger {
	t.Helper()
	leader := c.Leader()
	ctx, cancel := context.WithCancel(context.Background())
	p := &pinger{cancel: cancel}
	for n := range agents {
		targets := []*harness.Client{harness.NewClient(t, leader.Application)}
		if i := c.Instances[n%len(c.Instances)]; i != leader {
			targets = append(targets, harness.NewClient(t, i.Application))
		}
		p.done.Go(func() {
			due := time.NewTimer(time.Second * time.Duration(n) / time.Duration(agents))
			defer due.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-due.C:
				}
				due.Reset(time.Second)
				for range nodes {
					for _, target := range targets {
						_, _ = target.Do(ctx, "GET", "/livez", nil)
					}
					p.made.Add(1)
				}
			}
		})
	}
	t.Cleanup(p.stop)
	return p
}

func (p *pinger) stop() {
	p.cancel()
	p.done.Wait()
}

// busy returns the share of one core that all processes together take over a time d.
func busy(t *testing.T, c *harness.Cluster, d time.Duration) float64 {
	t.Helper()
	cpu := func() (total time.Duration) {
		for _, i := range c.Instances {
			total += i.CPUTime()
		}
		return total
	}
	before, began := cpu(), time.Now()
	pass(t, d)
	return float64(cpu()-before) / float64(time.Since(began))
}

// pass waits for d, for measurements over time.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// logged is the progress of an instance according to its metrics: the last entry of
// its raft log, the entries it has applied, the entries it was asked to write, and
// the revision of its registry.
type logged struct{ last, applied, asked, revision float64 }

func logOf(t *testing.T, c *harness.Cluster) []logged {
	t.Helper()
	var all []logged
	for _, i := range c.Instances {
		metrics, err := i.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, logged{
			last:     metrics["nodesmetadata_raft_last_index"],
			applied:  metrics["raft_fsm_applyBatchNum_sum"],
			asked:    metrics["raft_apply"],
			revision: metrics["nodesmetadata_registry_revision"],
		})
	}
	return all
}
