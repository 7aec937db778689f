package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	// renewEvery is how often an agent renews each of its nodes.
	renewEvery = time.Second
	// renewTimeout is how long an agent waits for an answer before it asks the next instance.
	renewTimeout = time.Second
	// renewLate is the gap between two renewals of a node from which on the second
	// counts as late.
	renewLate = renewEvery + renewEvery/4
	// renewPause is how long an agent waits after all instances have failed.
	renewPause = 50 * time.Millisecond
)

// Renewal is the last acknowledged renewal of a node: when it was sent, and when
// the answer came. The zero value means that none was acknowledged.
type Renewal struct{ Sent, Acknowledged time.Time }

// Agents keep nodes alive as the programs beside cache nodes do: each agent renews
// its nodes once a second, one after the other through one instance, and moves on
// to the next instance when a request fails or takes a second. Agents have
// connections of their own.
type Agents struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	all    []*agent
	of     map[string]*agent
}

// StartAgents starts count agents. Each renews an equal share of the nodes, and
// goes through all addresses in turn. They end with t or with Stop.
func StartAgents(t testing.TB, count int, addresses, ids []string) *Agents {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := &Agents{cancel: cancel, of: map[string]*agent{}}
	for n := range count {
		one := &agent{
			turn:    n,
			phase:   renewEvery * time.Duration(n) / time.Duration(count),
			nodes:   map[string]*renewed{},
			changed: make(chan struct{}, 1),
		}
		for _, address := range addresses {
			one.clients = append(one.clients, NewClient(t, address))
		}
		a.all = append(a.all, one)
	}
	for n, id := range ids {
		a.of[id] = a.all[n%count]
	}
	a.Resume(ids...)
	for _, one := range a.all {
		a.done.Go(func() { one.run(ctx) })
	}
	t.Cleanup(a.Stop)
	return a
}

// Stop ends all agents and waits until they have ended.
func (a *Agents) Stop() {
	a.cancel()
	a.done.Wait()
}

// Drop stops renewing the nodes. When it returns, no renewal of them is in flight,
// and what Last returns for them no longer changes.
func (a *Agents) Drop(ids ...string) {
	for one, share := range a.shares(ids) {
		one.drop(share)
	}
}

// Resume starts renewing the nodes, for the first time or again. Each agent starts
// at its own phase within the renewal interval.
func (a *Agents) Resume(ids ...string) {
	now := time.Now()
	for one, share := range a.shares(ids) {
		one.resume(share, now.Add(one.phase))
	}
}

func (a *Agents) shares(ids []string) map[*agent][]string {
	shares := map[*agent][]string{}
	for _, id := range ids {
		shares[a.of[id]] = append(shares[a.of[id]], id)
	}
	return shares
}

// Last returns the last acknowledged renewal of a node.
func (a *Agents) Last(id string) Renewal {
	one := a.of[id]
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.nodes[id].last
}

// AgentCounts is what agents have seen so far.
type AgentCounts struct {
	Acknowledged, Failed int
	// Longest is the longest time between two acknowledged renewals of a node.
	Longest time.Duration
}

// Counts sums up all agents. It may be called at any time.
func (a *Agents) Counts() AgentCounts {
	var sum AgentCounts
	for _, one := range a.all {
		one.mu.Lock()
		sum.Acknowledged += one.counts.Acknowledged
		sum.Failed += one.counts.Failed
		sum.Longest = max(sum.Longest, one.counts.Longest)
		one.mu.Unlock()
	}
	return sum
}

// Err returns the renewals that were refused, for example because the node does not exist.
func (a *Agents) Err() error {
	var faults []error
	for _, one := range a.all {
		one.mu.Lock()
		faults = append(faults, one.refused...)
		one.mu.Unlock()
	}
	return errors.Join(faults...)
}

// Await waits until every node that is being renewed has a renewal that was sent
// after the call of Await.
func (a *Agents) Await(t testing.TB) {
	t.Helper()
	began := time.Now()
	Eventually(t, "the agents renew their nodes", func() error {
		for _, one := range a.all {
			if id := one.waiting(began); id != "" {
				return fmt.Errorf("%s was not renewed", id)
			}
		}
		return a.Err()
	})
}

// AwaitPace waits until every node that is being renewed was renewed in time twice
// in a row. By then the leader knows how often the node is renewed.
func (a *Agents) AwaitPace(t testing.TB) {
	t.Helper()
	Eventually(t, "the agents renew their nodes in time", func() error {
		for _, one := range a.all {
			if id := one.behind(); id != "" {
				return fmt.Errorf("%s was not renewed in time twice in a row", id)
			}
		}
		return a.Err()
	})
}

// agent renews some of the nodes, one after the other.
type agent struct {
	clients []*Client
	turn    int           // index of the client that it asks; only for its own goroutine
	phase   time.Duration // offset of its renewals within the interval
	changed chan struct{} // holds a token after nodes were resumed

	busy sync.Mutex // held while a node is renewed

	mu      sync.Mutex // guards the fields below; taken after busy
	nodes   map[string]*renewed
	counts  AgentCounts
	refused []error
}

// renewed is what an agent knows of one of its nodes.
type renewed struct {
	due     time.Time
	dropped bool
	resumed bool // not renewed since Resume
	last    Renewal
	inTime  int // how many of the latest renewals in a row were in time
}

func (a *agent) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-a.changed:
		case <-time.After(a.untilDue()):
			a.renewNext(ctx)
		}
	}
}

func (a *agent) drop(ids []string) {
	a.busy.Lock()
	defer a.busy.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		a.nodes[id].dropped = true
	}
}

func (a *agent) resume(ids []string, due time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		node := a.nodes[id]
		if node == nil {
			node = &renewed{}
			a.nodes[id] = node
		}
		node.due, node.dropped, node.resumed = due, false, true
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// next returns the node that is due first, or nil if all are dropped. The caller holds mu.
func (a *agent) next() (id string, node *renewed) {
	for other, candidate := range a.nodes {
		if !candidate.dropped && (node == nil || candidate.due.Before(node.due)) {
			id, node = other, candidate
		}
	}
	return id, node
}

// take returns the node that is due now and schedules its next renewal. It returns nil
// when no node is due.
func (a *agent) take() (string, *renewed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, node := a.next()
	if node == nil || time.Until(node.due) > 0 {
		return "", nil
	}
	// A late agent renews at once, but does not make up for renewals that it missed.
	node.due = node.due.Add(renewEvery)
	if now := time.Now(); node.due.Before(now) {
		node.due = now
	}
	return id, node
}

func (a *agent) untilDue() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, node := a.next(); node != nil {
		return time.Until(node.due)
	}
	return renewEvery
}

// waiting returns a node that should be renewed but was not since the given time; ""
// if there is none.
func (a *agent) waiting(since time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(a.nodes)) {
		if node := a.nodes[id]; !node.dropped && node.last.Sent.Before(since) {
			return id
		}
	}
	return ""
}

// behind returns a node that was not renewed in time twice in a row; "" if there is none.
func (a *agent) behind() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(a.nodes)) {
		if node := a.nodes[id]; !node.dropped && node.inTime < 2 {
			return id
		}
	}
	return ""
}

// renewNext renews the node that is due, and tries until it gets an answer.
func (a *agent) renewNext(ctx context.Context) {
	a.busy.Lock()
	defer a.busy.Unlock()
	id, node := a.take()
	if node == nil {
		return
	}
	for failures := 0; ctx.Err() == nil; {
		sent := time.Now()
		err := a.heartbeat(ctx, id)
		if ctx.Err() != nil || a.note(node, sent, err) {
			return
		}
		a.turn++
		if failures++; failures%len(a.clients) == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(renewPause):
			}
		}
	}
}

func (a *agent) heartbeat(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	_, err := a.clients[a.turn%len(a.clients)].Heartbeat(ctx, id)
	return err
}

// note records the outcome of one attempt. It reports whether the attempt settled the
// renewal: it was acknowledged, or refused for good.
func (a *agent) note(node *renewed, sent time.Time, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		now := time.Now()
		gap := now.Sub(node.last.Acknowledged)
		if !node.resumed {
			a.counts.Longest = max(a.counts.Longest, gap)
		}
		if node.inTime++; node.resumed || gap >= renewLate {
			node.inTime = 0
		}
		node.resumed = false
		node.last = Renewal{Sent: sent, Acknowledged: now}
		a.counts.Acknowledged++
		return true
	}
	a.counts.Failed++
	problem := new(Problem)
	if !errors.As(err, &problem) || problem.Answer.Status >= http.StatusInternalServerError {
		return false
	}
	if len(a.refused) < 5 {
		a.refused = append(a.refused, err)
	}
	return true
}
