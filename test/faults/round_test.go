package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// round has a nemesis strike once while clients work, and checks what they observed.
func (f *field) round(n nemesis) *evidence {
	f.t.Helper()
	f.rounds++
	e := f.observe(n)
	f.t.Logf("round %d, %s: %d operations, %d writes, %d changes; at most %v without a write, of which this machine stalled for %v; recovered in %v",
		f.rounds, n.name, len(e.operations), len(e.writes), len(e.changes),
		e.gap.length().Round(time.Millisecond), e.stall(e.gap).Round(time.Millisecond), e.recovered.Round(time.Millisecond))
	if f.table != nil {
		f.table.add(e)
	}
	for _, c := range checks {
		if err := c.check(e); err != nil {
			f.t.Errorf("round %d, %s: check %q failed: %v", f.rounds, n.name, c.name, err)
		}
	}
	if f.t.Failed() {
		// If the history is not linearizable, Check leaves a picture of it.
		_ = history.Check(f.t, fmt.Sprintf("round-%d", f.rounds), e.operations)
		f.t.FailNow() // later failures would only be consequences of this one
	}
	return e
}

// observe runs a round and returns the evidence.
func (f *field) observe(n nemesis) *evidence {
	f.t.Helper()
	e := &evidence{
		nemesis: n.name, elects: n.elects, aside: n.aside,
		before: f.list(), termBefore: f.term(), renewals: f.load.renewing.Counts().Acknowledged,
	}
	f.disturbed, f.injected = map[string][]span{}, 0
	r, end := f.load.begin(fmt.Sprintf("r%d", f.rounds))
	f.load.awaitMore(fewestWrites)
	struck := time.Now()
	n.strike(f)
	e.recovered = f.load.awaitAfter(time.Now())
	f.AwaitReady()
	f.load.awaitMore(fewestWrites)
	f.load.renewing.Await(f.t)
	f.load.awaitOperations(r)
	end()
	e.operations = r.History()
	e.writes, e.gap = f.load.acknowledged(), gapSince(f.load.acknowledged(), struck)
	f.settle(e)
	return e
}

// settle adds the evidence that is available after the round.
func (f *field) settle(e *evidence) {
	f.t.Helper()
	e.termAfter = f.term()
	e.injected, e.disturbed, e.exchanges, e.stalls = f.injected, f.disturbed, f.load.exchanges, f.load.stalls
	counts := f.load.renewing.Counts()
	e.renewals, e.refused = counts.Acknowledged-e.renewals, f.load.renewing.Err()
	last := f.list()
	e.after = map[string]harness.Registry{}
	for _, i := range f.Instances {
		e.after[i.ID] = f.stored(i, last.Revision)
	}
	e.changes = f.changes(e.before.Revision, last.Revision)
	e.streams, e.faults = map[string][]harness.Change{}, map[string]error{}
	for name, follower := range f.load.followed {
		e.faults[name] = awaitStream(f, follower, last.Revision)
		e.streams[name] = follower.Drain()
	}
	e.leads = f.leads()
}

// list returns the registry as soon as a read succeeds.
func (f *field) list() harness.Registry {
	f.t.Helper()
	var registry harness.Registry
	harness.Eventually(f.t, "a list succeeds", func() (err error) {
		registry, err = f.Instances[0].List(f.t.Context())
		return err
	})
	return registry
}

func (f *field) term() uint64 {
	f.t.Helper()
	ready, err := f.Leader().Ready(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return ready.Term
}

// stored returns the registry in an instance's own state, once it has reached a revision.
func (f *field) stored(i *harness.Instance, revision uint64) harness.Registry {
	f.t.Helper()
	var registry harness.Registry
	itself := i.With("consistency=stale&min_revision=" + strconv.FormatUint(revision, 10))
	harness.Eventually(f.t, i.ID+" has caught up", func() (err error) {
		registry, err = itself.List(f.t.Context())
		return err
	})
	return registry
}

// changes returns the changes after revision since, up to until, as the leader tells them.
func (f *field) changes(since, until uint64) []harness.Change {
	f.t.Helper()
	if since == until {
		return nil
	}
	stream, err := f.Leader().Stream(f.t.Context(), "/nodes/sse", strconv.FormatUint(since, 10))
	if err != nil {
		f.t.Fatal(err)
	}
	defer stream.Close()
	var changes []harness.Change
	for len(changes) == 0 || changes[len(changes)-1].Revision < until {
		event, err := stream.Event()
		if err == nil && event.Type == "snapshot" {
			err = errors.New("the history does not reach back to the beginning of the round, which was too long")
		}
		var change harness.Change
		if err == nil {
			err = json.Unmarshal([]byte(event.Data), &change)
		}
		if err != nil {
			f.t.Fatalf("stream of the history after revision %d: %v", since, err)
		}
		changes = append(changes, change)
	}
	return changes
}

// awaitStream waits until a stream has reached a revision, and returns the stream's
// violation, if any.
func awaitStream(f *field, follower *harness.Follower, revision uint64) error {
	f.t.Helper()
	harness.Eventually(f.t, "a stream reaches the end of the history", func() error {
		if at := follower.Revision(); at < revision && follower.Err() == nil {
			return fmt.Errorf("the stream is at revision %d of %d", at, revision)
		}
		return nil
	})
	if _, snapshots := follower.Counts(); snapshots > 1 && follower.Err() == nil {
		return fmt.Errorf("the stream sent %d snapshots where it could have resumed from the history", snapshots-1)
	}
	return follower.Err()
}

var electionWon = regexp.MustCompile(`msg="election won".* term=(\d+)`)

// leads returns all leaders by term, as they presented themselves to clients and in their logs.
func (f *field) leads() map[uint64][]string {
	f.t.Helper()
	for _, i := range f.Instances {
		for _, won := range electionWon.FindAllStringSubmatch(i.Log(), -1) {
			term, err := strconv.ParseUint(won[1], 10, 64)
			if err != nil {
				f.t.Fatal(err)
			}
			f.load.led(term, i.ID)
		}
	}
	f.load.mu.Lock()
	defer f.load.mu.Unlock()
	return maps.Clone(f.load.leads)
}
