package e2e_test

import (
	"flag"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var crowd = flag.Int("crowd", 0, "how many subscribers that never read to measure writers against; 0 skips the test, which needs an otherwise idle machine")

const (
	// writersBeside is the number of writers, and crowdTimes how often their rate
	// is measured with and without a crowd: a single measurement is mostly noise.
	writersBeside = 8
	crowdTimes    = 5
	// maxCost is the fraction by which writers may be slower.
	maxCost = 0.05
)

// Subscribers that never read cost writers nothing measurable, once their sockets are full.
func TestSubscribersThatNeverReadCostWritersLittle(t *testing.T) {
	if *crowd == 0 {
		t.Skip("this measurement needs -crowd=1000 and an otherwise idle machine")
	}
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: calm, Build: harness.Build{Plain: true}})
		leader := c.Leader()
		var costs []float64
		for range crowdTimes {
			before := writeRate(t, leader)
			silent := make([]net.Conn, *crowd)
			for n := range silent {
				silent[n] = neverRead(t, leader.Application)
			}
			writeLarge(t, leader.Client, unread)
			beside := writeRate(t, leader)
			for _, conn := range silent {
				checkStalled(t, conn)
				_ = conn.Close()
			}
			after := writeRate(t, leader)
			cost := 1 - beside/((before+after)/2)
			t.Logf("writes in a second: %.0f before, %.0f beside %d subscribers that never read, %.0f after: that costs %.1f %%",
				before, beside, *crowd, after, 100*cost)
			costs = append(costs, cost)
		}
		slices.Sort(costs)
		if median := costs[len(costs)/2]; median > maxCost {
			t.Errorf("subscribers that never read slow writers down by %.1f %%, want at most %.0f %%", 100*median, 100*maxCost)
		}
	})
}

// writeRate returns the number of small writes per second that succeed.
func writeRate(t *testing.T, leader *harness.Instance) float64 {
	t.Helper()
	l := startLoad(t, writersBeside, []*harness.Client{leader.Client})
	l.awaitMore(t, 100)
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.acked
	}
	before, began := count(), time.Now()
	pass(t, window)
	rate := float64(count()-before) / time.Since(began).Seconds()
	l.end()
	return rate
}
