package e2e_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func checkHandOver(t *testing.T, c *harness.Cluster) {
	leader, staying := c.Leader(), c.Followers()
	var streams []*harness.Follower
	for _, i := range staying {
		for _, query := range []string{here, stale} {
			f := harness.Follow(t, i.With(query))
			f.Await(t, 1)
			streams = append(streams, f)
		}
	}
	leader.Stop()
	stored := put(t, awaitSuccessor(t, c, leader).Client, "after-hand-over")
	for _, f := range streams {
		f.Await(t, stored.Seen)
		f.Stop()
		if opened, snapshots := f.Counts(); opened != 1 || snapshots != 1 {
			t.Errorf("a subscriber used %d streams and %d snapshots while leadership was handed over, want 1 of each", opened, snapshots)
		}
	}
	leader.Start()
	c.AwaitReady()
}

// cutOffComment is the comment with which a stream ends when its instance has lost
// contact with the leader.
const cutOffComment = "has not heard from a leader for longer than the election timeout"

// noticedWithin bounds how long an instance takes to notice: the election timeout
// of calm, and a margin for a busy machine.
const noticedWithin = 3 * time.Second

func checkCutOff(t *testing.T, c *harness.Cluster) {
	one := c.Followers()[0]
	before := list(t, one.With(here)).Revision
	ends := make(chan error)
	count := 0
	for _, query := range []string{here, stale} {
		for _, filter := range []harness.Filter{{}, {Pool: "nobody"}} {
			count++
			stream, err := one.With(query).With(filter.Query()).Stream(t.Context(), "/nodes/sse", "")
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if event, err := stream.Event(); err != nil || event.Type != "snapshot" {
				t.Fatalf("first event of the stream = %+v, %v, want a snapshot", event, err)
			}
			go func() { ends <- checkEnding(stream) }()
		}
	}
	c.CutOff(one)
	began := time.Now()
	for range count {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
	took := time.Since(began)
	t.Logf("streams of an instance that was cut off ended after %v", took.Round(time.Millisecond))
	if took > noticedWithin {
		t.Errorf("streams of an instance that was cut off ended after %v, want at most %v", took, noticedWithin)
	}
	checkAlone(t, one, before)

	// The others go on, and afterwards so does the instance that was cut off.
	stored := put(t, c.Leader().Client, "unheard")
	if registry := list(t, one.With(stale)); registry.Revision != before {
		t.Errorf("revision of the instance that is cut off = %d, want %d as before", registry.Revision, before)
	}
	c.Heal()
	one.AwaitReady()
	f := harness.Follow(t, one.With(here))
	f.Await(t, stored.Seen)
	f.Stop()
	answer, err := one.With(stale).With("max_stale=800ms").Do(t.Context(), http.MethodGet, "/nodes/unheard", nil)
	if err != nil {
		t.Errorf("a read with max_stale after the network was healed: status = %d (%v), want success", answer.Status, err)
	}
}

// checkEnding reads a stream to its end, and says what is wrong with its ending.
func checkEnding(stream *harness.Stream) error {
	var last harness.Event
	for {
		event, err := stream.Next()
		if err != nil {
			break
		}
		last = event
	}
	if !strings.Contains(last.Comment, cutOffComment) {
		return fmt.Errorf("last event of a stream of an instance that is cut off = %+v, want the comment %q", last, cutOffComment)
	}
	return nil
}

// checkAlone fails the test unless an instance that is cut off at a revision
// answers what it can, and explains what it can't.
func checkAlone(t *testing.T, one *harness.Instance, revision uint64) {
	t.Helper()
	refused := func(what, code string, client *harness.Client) {
		t.Helper()
		began := time.Now()
		_, err := client.List(t.Context())
		if problem := problemOf(t, err); problem.Status != http.StatusServiceUnavailable || problem.Code != code {
			t.Errorf("%s: answer = %v, want 503 %s", what, problem, code)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: answered after %v, want at most 10s", what, took)
		}
	}
	refused("a list", "no_leader", one.Client)
	refused("a linearizable list", "no_leader", one.With(here))
	refused("a list that must not be stale", "too_stale", one.With(stale).With("max_stale=500ms"))
	answer, err := one.With(stale).Do(t.Context(), http.MethodGet, "/nodes", nil)
	seen, _ := answer.Revision()
	contact, _ := strconv.Atoi(answer.Header.Get("Nodesmetadata-Leader-Contact"))
	if err != nil || seen != revision || contact < 1000 {
		t.Errorf("a stale list = %d at revision %d with leader contact %d ms ago (%v), want revision %d and contact at least 1000 ms ago", answer.Status, seen, contact, err, revision)
	}
	if _, err := one.With(stale).With("max_stale=1m").List(t.Context()); err != nil {
		t.Errorf("a list that may be a minute old: error = %v, want none", err)
	}
	// A stream begins all the same: browsers would not reconnect after a 503.
	stream, err := one.With(here).Stream(t.Context(), "/nodes/sse", "")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if event, err := stream.Next(); err != nil || !event.IsComment || event.Comment != "no leader" {
		t.Errorf(`first event of a new stream = %+v, %v, want the comment "no leader"`, event, err)
	}
}

func checkNotCaughtUp(t *testing.T, c *harness.Cluster) {
	before := list(t, c.Leader().Client)
	one := c.Followers()[0]
	for _, i := range c.Instances {
		i.Kill()
	}
	one.Start()
	answer, err := one.With(stale).Do(t.Context(), http.MethodGet, "/nodes", nil)
	if problem := problemOf(t, err); problem.Status != http.StatusServiceUnavailable || problem.Code != "not_caught_up" || answer.Header.Get("Retry-After") != "1" {
		t.Errorf("a stale list of an instance started without a leader = %v, want 503 not_caught_up with Retry-After: 1", problem)
	}
	if _, err := one.With(stale).Get(t.Context(), "first"); !hasStatus(err, http.StatusServiceUnavailable) {
		t.Errorf("a stale read of a node of an instance started without a leader: error = %v, want 503", err)
	}
	for _, i := range others(c, one) {
		i.Start()
	}
	c.AwaitReady()
	sameRegistry(t, "the registry after all instances were killed", list(t, one.With(stale)), before)
}
