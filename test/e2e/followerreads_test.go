package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	here  = "redirect=false"
	stale = "consistency=stale"
)

// Every instance answers reads and streams itself if the request asks for that.
func TestFollowersAnswerReads(t *testing.T) {
	c := harness.Start(t, harness.Options{Proxied: true, Flags: calm})
	first := put(t, c.Instances[0].Client, "first")
	for _, i := range c.Instances {
		awaitRevision(t, i, first.Seen)
	}
	polls := startLongPolls(t, c)
	t.Run("streams and lists", func(t *testing.T) { checkStreamsAndLists(t, c) })
	t.Run("a long poll ends with a change", func(t *testing.T) { checkLongPolls(t, c) })
	t.Run("a read with min_revision sees the write", func(t *testing.T) { checkMinRevision(t, c) })
	t.Run("a long poll lasts as long as it should", polls)
	t.Run("streams outlive a leader that hands over", func(t *testing.T) { checkHandOver(t, c) })
	t.Run("an instance that is cut off says so", func(t *testing.T) { checkCutOff(t, c) })
	t.Run("an instance that has not caught up says so", func(t *testing.T) { checkNotCaughtUp(t, c) })
}

var zoneless = ""

// filters match nodes that the random client creates.
var filters = []harness.Filter{
	{},
	{Pool: "a"},
	{State: "draining"},
	{Zone: &zoneless, Pool: "b"},
	{Labels: map[string]string{"rack": "1"}},
	{Pool: "c", State: "active", Labels: map[string]string{"rack": "2", "disk": "<&>"}},
}

func checkStreamsAndLists(t *testing.T, c *harness.Cluster) {
	whole := harness.Follow(t, c.Leader().Client)
	whole.Await(t, 1)
	type filtered struct {
		what     string
		filter   harness.Filter
		follower *harness.Follower
	}
	var streams []filtered
	readers := map[string]*harness.Client{}
	for n, i := range c.Instances {
		readers[i.ID] = i.Client
		for m, query := range []string{here, stale} {
			readers[i.ID+" "+query] = i.With(query)
			for k, filter := range filters {
				if (n+m+k)%2 == 0 { // half of all combinations
					what := fmt.Sprintf("the stream of %s with %s and %q", i.ID, query, filter.Query())
					streams = append(streams, filtered{what, filter, harness.FollowFiltered(t, filter, i.With(query))})
				}
			}
		}
	}
	w := startRandomLoad(t, c)
	lists := startSampler(t, readers, filters)
	w.awaitMore(t, 1000)
	w.stop()
	samples := lists.stop()
	endLeases(t, c)

	registry := list(t, c.Leader().Client)
	whole.Await(t, registry.Revision)
	whole.Stop()
	sameRegistry(t, "the whole stream", whole.Registry(), registry)
	line := timeline{whole.First(), whole.Changes()}
	line.checkSamples(t, samples)
	told := 0
	for _, s := range streams {
		want := s.filter.Of(registry)
		harness.Eventually(t, s.what+" delivers the last change", func() error {
			if last := lastOf(line, s.filter); s.follower.Revision() < last {
				return fmt.Errorf("the stream is at revision %d, but the last change has %d", s.follower.Revision(), last)
			}
			return s.follower.Err()
		})
		s.follower.Stop()
		if opened, snapshots := s.follower.Counts(); opened != 1 || snapshots != 1 {
			t.Errorf("%s: the subscriber used %d streams and %d snapshots, want 1 of each", s.what, opened, snapshots)
		}
		got := s.follower.Registry()
		got.Revision = want.Revision
		sameRegistry(t, s.what, got, want)
		line.checkCopy(t, s.what, s.filter, s.follower.First(), s.follower.Changes())
		told += len(s.follower.Changes())
	}
	checkStreamBytes(t, c, line)
	t.Logf("%d streams with %d changes of %d, and %d lists, were compared with the registry", len(streams), told, len(line.changes), len(samples))
}

// lastOf returns the revision of the last change that a stream with filter delivers,
// or 0 if there is none.
func lastOf(line timeline, filter harness.Filter) uint64 {
	last := uint64(0)
	for _, change := range line.changes {
		if filter.Matches(change.Node) || change.Previous != nil && filter.Matches(*change.Previous) {
			last = change.Revision
		}
	}
	return last
}

// checkStreamBytes fails the test unless all instances stream the same bytes.
func checkStreamBytes(t *testing.T, c *harness.Cluster, line timeline) {
	t.Helper()
	leader := c.Leader()
	for _, filter := range filters {
		tape := func(client *harness.Client) []byte {
			tape, err := client.With(filter.Query()).StreamBytes(t.Context(), "/nodes/sse", line.start.Revision, lastOf(line, filter))
			if err != nil {
				t.Fatal(err)
			}
			return tape
		}
		want := tape(leader.Client)
		for _, i := range c.Followers() {
			for _, query := range []string{here, stale} {
				if got := tape(i.With(query)); !bytes.Equal(got, want) {
					t.Errorf("the stream of %s with %s and %q differs from the leader's: %d bytes, want %d", i.ID, query, filter.Query(), len(got), len(want))
				}
			}
		}
	}
}

// longWait is longer than any request without a wait takes.
const longWait = 12 * time.Second

// startLongPolls starts long polls that never succeed, at every instance. The
// leader must stay the same until the returned check has run.
func startLongPolls(t *testing.T, c *harness.Cluster) func(t *testing.T) {
	t.Helper()
	const never = "/nodes?since=1000000000"
	faults := make(chan error)
	count := 0
	for _, i := range c.Instances {
		for _, query := range []string{"", here, stale} {
			count++
			go func() {
				began := time.Now()
				answer, err := i.With(query).Waiting(longWait).Do(context.Background(), http.MethodGet, never, nil)
				took := time.Since(began)
				if err == nil && (answer.Status != http.StatusNotModified || took < longWait || took > longWait+2*time.Second || len(answer.Body) > 0) {
					err = fmt.Errorf("status = %d after %v, want %d without a body after %v", answer.Status, took, http.StatusNotModified, longWait)
				}
				if err != nil {
					err = fmt.Errorf("long poll of %s with %q: %w", i.ID, query, err)
				}
				faults <- err
			}()
		}
	}
	collect := sync.OnceValue(func() error {
		var all []error
		for range count {
			all = append(all, <-faults)
		}
		return errors.Join(all...)
	})
	t.Cleanup(func() { _ = collect() })
	return func(t *testing.T) {
		if err := collect(); err != nil {
			t.Error(err)
		}
	}
}

func checkLongPolls(t *testing.T, c *harness.Cluster) {
	before := list(t, c.Leader().Client).Revision
	path := fmt.Sprintf("/nodes?since=%d", before)
	type poll struct {
		answer harness.Answer
		err    error
		at     time.Time
	}
	answers := make(chan poll)
	count := 0
	for _, i := range c.Instances {
		for _, query := range []string{"", here, stale} {
			count++
			go func() {
				answer, err := i.With(query).Waiting(longWait).Do(t.Context(), http.MethodGet, path, nil)
				answers <- poll{answer, err, time.Now()}
			}()
		}
	}
	pass(t, 300*time.Millisecond) // enough for most polls to be waiting; late ones need not be
	stored := put(t, c.Instances[1].Client, "awaited")
	written := time.Now()
	for range count {
		p := <-answers
		revision, err := p.answer.Revision()
		if p.err != nil || err != nil || p.answer.Status != http.StatusOK || revision != stored.Seen || !strings.Contains(string(p.answer.Body), `"awaited"`) {
			t.Errorf("long poll: status = %d at revision %d (%v), want 200 at %d with the awaited node", p.answer.Status, revision, errors.Join(p.err, err), stored.Seen)
		}
		if late := p.at.Sub(written); late > time.Second {
			t.Errorf("long poll: answered %v after the write, want at most 1s", late)
		}
	}
}

// behind is the delay of everything that a follower receives from the leader.
const behind = 150 * time.Millisecond

func checkMinRevision(t *testing.T, c *harness.Cluster) {
	leader, slow := c.Leader(), c.Followers()[0]
	slow.Proxy.Delay(harness.Forth, behind)
	defer slow.Proxy.Delay(harness.Forth, 0)
	const times = 15
	missed := 0
	for n := range times {
		stored := put(t, leader.Client, fmt.Sprintf("written-%d", n))
		if _, err := slow.With(stale).Get(t.Context(), stored.ID); hasStatus(err, http.StatusNotFound) {
			missed++
		} else if err != nil {
			t.Fatal(err)
		}
		atLeast := slow.With(stale).With("min_revision=" + strconv.FormatUint(stored.Seen, 10))
		if n%2 == 0 {
			read, err := atLeast.Get(t.Context(), stored.ID)
			if err != nil || read.Revision != stored.Revision || read.Seen < stored.Seen {
				t.Errorf("read with min_revision = %+v, %v, want %+v", read, err, stored)
			}
			continue
		}
		registry, err := atLeast.List(t.Context())
		if err != nil || registry.Nodes[stored.ID].Revision != stored.Revision || registry.Revision < stored.Seen {
			t.Errorf("list with min_revision contains %+v at revision %d (%v), want %+v", registry.Nodes[stored.ID], registry.Revision, err, stored)
		}
	}
	t.Logf("of %d reads without min_revision %d missed the write before", times, missed)
	if missed == 0 {
		t.Error("no read without min_revision was stale: the test needs a follower that is behind")
	}
	linearizable := put(t, leader.Client, "written-last")
	if read, err := slow.With(here).Get(t.Context(), linearizable.ID); err != nil || read.Seen < linearizable.Seen {
		t.Errorf("linearizable read of a follower that is behind = %+v, %v, want at least revision %d", read, err, linearizable.Seen)
	}
	began := time.Now()
	const short = 300 * time.Millisecond
	_, err := slow.With(stale).With("min_revision=1000000000").Waiting(short).List(t.Context())
	if problem := problemOf(t, err); problem.Status != http.StatusServiceUnavailable || problem.Code != "revision_not_reached" || time.Since(began) < short {
		t.Errorf("list with a min_revision that is never reached = %v after %v, want 503 revision_not_reached after %v", problem, time.Since(began), short)
	}
}
