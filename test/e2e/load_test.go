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

// load is a number of writers that write through all instances in turn, each write
// as soon as the last one is answered. Each writer has a node of its own and
// increments the weight of its node with each write.
type load struct {
	clients []*harness.Client
	stop    chan struct{}
	once    sync.Once
	done    sync.WaitGroup

	mu       sync.Mutex
	outcomes [][]harness.Outcome // by writer; the first is that of weight 1
	acked    int
	ackedAt  time.Time
	gap      time.Duration // the longest time between two acknowledged writes
	fault    error
}

func startLoad(t *testing.T, writers int, clients []*harness.Client) *load {
	t.Helper()
	l := &load{clients: clients, stop: make(chan struct{}), outcomes: make([][]harness.Outcome, writers)}
	ctx, cancel := context.WithCancel(context.Background())
	for n := range writers {
		l.done.Go(func() { l.write(ctx, n) })
	}
	t.Cleanup(func() {
		cancel()
		l.end()
	})
	return l
}

func nodeOf(writer int) string { return fmt.Sprintf("writer-%d", writer) }

func (l *load) write(ctx context.Context, n int) {
	for weight := 1; ; weight++ {
		node := harness.NewNode(nodeOf(n))
		node.Weight = &weight
		stored, err := l.clients[(n+weight)%len(l.clients)].Put(ctx, node)
		if err == nil && (stored.Weight == nil || *stored.Weight != weight) {
			l.fail(fmt.Errorf("put = %+v, want weight %d", stored, weight))
			return
		}
		l.note(n, harness.OutcomeOf(err))
		pause := time.Duration(0)
		if err != nil {
			pause = 5 * time.Millisecond // an instance that is down refuses at once
		}
		select {
		case <-l.stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (l *load) note(n int, outcome harness.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes[n] = append(l.outcomes[n], outcome)
	if outcome == harness.Done {
		now := time.Now()
		if !l.ackedAt.IsZero() {
			l.gap = max(l.gap, now.Sub(l.ackedAt))
		}
		l.acked, l.ackedAt = l.acked+1, now
	}
}

// startGap starts measuring the longest time without an acknowledged write.
func (l *load) startGap() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gap = 0
}

func (l *load) longestGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = err
}

// awaitMore waits until n more writes are acknowledged.
func (l *load) awaitMore(t *testing.T, n int) {
	t.Helper()
	acked := func() (int, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.acked, l.fault
	}
	before, _ := acked()
	harness.Eventually(t, fmt.Sprintf("%d more writes are acknowledged", n), func() error {
		now, err := acked()
		if err == nil && now < before+n {
			err = fmt.Errorf("%d were", now-before)
		}
		return err
	})
}

// end stops the writers and waits until they have stopped.
func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	l.done.Wait()
}

// check fails the test unless changes, the whole history, contain every
// acknowledged write, no write that was not done, and no write twice or out of
// order.
func (l *load) check(t *testing.T, changes []harness.Change) {
	t.Helper()
	weights := map[string][]int{}
	for _, change := range changes {
		if change.Node.Weight == nil {
			t.Fatalf("a change without a weight: %+v", change)
		}
		weights[change.Node.ID] = append(weights[change.Node.ID], *change.Node.Weight)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil {
		t.Error(l.fault)
	}
	total := map[harness.Outcome]int{}
	for n, outcomes := range l.outcomes {
		for _, outcome := range outcomes {
			total[outcome]++
		}
		if err := checkWriter(outcomes, weights[nodeOf(n)]); err != nil {
			t.Errorf("%s: %v", nodeOf(n), err)
		}
	}
	t.Logf("writes acknowledged: %d, not done: %d, unknown: %d; changes: %d",
		total[harness.Done], total[harness.NotDone], total[harness.Unknown], len(changes))
}

// checkWriter compares outcomes, the first of which is that of weight 1, with the
// weights that were stored.
func checkWriter(outcomes []harness.Outcome, stored []int) error {
	last := 0
	there := map[int]bool{}
	for _, weight := range stored {
		if weight <= last || weight > len(outcomes) {
			return fmt.Errorf("weight %d was stored after %d, of %d that were sent", weight, last, len(outcomes))
		}
		last = weight
		there[weight] = true
	}
	var faults []error
	for at, outcome := range outcomes {
		switch weight := at + 1; {
		case outcome == harness.Done && !there[weight]:
			faults = append(faults, fmt.Errorf("weight %d was acknowledged, but is lost", weight))
		case outcome == harness.NotDone && there[weight]:
			faults = append(faults, fmt.Errorf("weight %d was reported as not done, but is stored", weight))
		}
	}
	return errors.Join(faults...)
}

func TestCheckWriterFindsLostAndUnexpectedWrites(t *testing.T) {
	const done, not, unknown = harness.Done, harness.NotDone, harness.Unknown
	tests := map[string]struct {
		outcomes []harness.Outcome
		stored   []int
		fine     bool
	}{
		"every write is stored":               {[]harness.Outcome{done, done}, []int{1, 2}, true},
		"an unknown write may be stored":      {[]harness.Outcome{done, unknown}, []int{1, 2}, true},
		"an unknown write may be missing":     {[]harness.Outcome{unknown, done}, []int{2}, true},
		"an acknowledged write is lost":       {[]harness.Outcome{done, done}, []int{1}, false},
		"a write that was not done is stored": {[]harness.Outcome{not, done}, []int{1, 2}, false},
		"a write is stored twice":             {[]harness.Outcome{done, done}, []int{1, 2, 2}, false},
		"an old write follows a new one":      {[]harness.Outcome{unknown, done}, []int{2, 1}, false},
		"a write is stored that nobody sent":  {[]harness.Outcome{done}, []int{1, 2}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := checkWriter(test.outcomes, test.stored); (err == nil) != test.fine {
				t.Errorf("checkWriter = %v, want no error: %v", err, test.fine)
			}
		})
	}
}
