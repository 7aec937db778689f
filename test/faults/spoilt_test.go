package faults

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// spoilers turn good evidence into evidence of a violation. check is the name of the
// check that has to find it.
var spoilers = []struct {
	what, check string
	spoil       func(*evidence)
}{
	{"idle clients", "there was load", func(e *evidence) { e.operations = e.operations[:fewestOperations-1] }},
	{"no writes", "there was load", func(e *evidence) { e.writes = nil }},
	{"no renewals", "there was load", func(e *evidence) { e.renewals = 0 }},
	{"no fault", "there was a fault", func(e *evidence) { e.injected = 0 }},
	{"a fault without an election", "there was a fault", func(e *evidence) { e.termAfter = e.termBefore }},
	{"a reader that sees an old value", "the history of the clients is linearizable", func(e *evidence) {
		last := e.operations[len(e.operations)-1]
		last.Input = history.Input{Kind: history.Get, Node: firstPut(e).Node}
		last.Output = history.Output{Present: true, Value: firstPut(e).Value - 1_000_000}
		last.Call, last.Return = last.Return+1, last.Return+2
		e.operations = append(e.operations, last)
	}},
	{"a write that is lost", "acknowledged writes are kept", func(e *evidence) {
		lost := e.writes[len(e.writes)/2].Revision
		e.changes = slices.DeleteFunc(e.changes, func(c harness.Change) bool { return c.Revision == lost })
	}},
	{"a write with another value", "acknowledged writes are kept", func(e *evidence) { e.writes[0].Value++ }},
	{"two writes with the same revision", "acknowledged writes are kept", func(e *evidence) {
		e.writes = append(e.writes, e.writes[0])
	}},
	{"an instance that lacks a node", "all instances are equal", func(e *evidence) {
		for id := range e.after["n2"].Nodes {
			delete(e.after["n2"].Nodes, id)
			return
		}
	}},
	{"an instance that is behind", "all instances are equal", func(e *evidence) {
		behind := e.after["n3"]
		behind.Revision--
		e.after["n3"] = behind
	}},
	{"a history with a hole", "all instances are equal", func(e *evidence) { e.changes = slices.Delete(e.changes, 3, 4) }},
	{"a stream that loses a change", "streams deliver the history", func(e *evidence) {
		e.streams[streamOfN1] = slices.Delete(e.streams[streamOfN1], 5, 6)
	}},
	{"a stream that delivers a change twice", "streams deliver the history", func(e *evidence) {
		e.streams[streamOfN1] = slices.Insert(e.streams[streamOfN1], 5, e.streams[streamOfN1][5])
	}},
	{"a stream out of order", "streams deliver the history", func(e *evidence) {
		changes := e.streams[streamOfN1]
		changes[5], changes[6] = changes[6], changes[5]
	}},
	{"a stream that delivers another node", "streams deliver the history", func(e *evidence) {
		e.streams[streamOfN1][5].Node.Zone = "elsewhere"
	}},
	{"a stream that violates the protocol", "streams deliver the history", func(e *evidence) {
		e.faults[streamOfN1] = errors.New("a change in the middle of a snapshot")
	}},
	{"two leaders of a term", "a term has one leader", func(e *evidence) { e.leads[e.termAfter] = []string{"n1", "n2"} }},
	{"a cluster that stays down", "the cluster recovers", func(e *evidence) { e.recovered = recovery + 1 }},
	{"an internal error", "refusals are orderly", spoilExchange(func(x *harness.Exchange) { x.Status = 500 })},
	{"a refusal without Retry-After", "refusals are orderly", spoilExchange(func(x *harness.Exchange) {
		x.Header.Del("Retry-After")
	})},
	{"a refusal that is no problem document", "refusals are orderly", spoilExchange(func(x *harness.Exchange) {
		x.Header.Set("Content-Type", "text/plain")
	})},
	{"a refusal without a code", "refusals are orderly", spoilExchange(func(x *harness.Exchange) { x.Code = "" })},
	{"a refusal that comes late", "refusals are orderly", spoilExchange(func(x *harness.Exchange) { x.Took = 2 * promptly })},
	{"a refusal that comes too late for the stalls of the machine", "refusals are orderly", func(e *evidence) {
		now := time.Now()
		e.stalls = []span{{now.Add(-time.Minute), now.Add(promptly / 2)}, {now.Add(2 * promptly), now.Add(time.Minute)}}
		spoilExchange(func(x *harness.Exchange) { x.Began, x.Took = now, 2*promptly })(e)
	}},
	{"a request that hangs", "requests keep their deadline", spoilExchange(func(x *harness.Exchange) {
		x.Status, x.Took = 0, 2*deadline
	})},
	{"a node that expires though it is renewed", "renewed nodes do not expire", func(e *evidence) { e.changes[7].Reason = "expired" }},
	{"a client of another instance that is refused", "clients of undisturbed instances notice nothing", func(e *evidence) {
		e.aside, e.termAfter = true, e.termBefore
		spoilExchange(func(*harness.Exchange) {})(e)
	}},
	{"a client of another instance that is cut off", "clients of undisturbed instances notice nothing", func(e *evidence) {
		e.aside, e.termAfter = true, e.termBefore
		spoilExchange(func(x *harness.Exchange) { x.Status, x.Err = 0, errors.New("connection reset") })(e)
	}},
	{"a renewal that is refused", "renewed nodes do not expire", func(e *evidence) { e.refused = errors.New("there is no such node") }},
}

const streamOfN1 = "stream 1 of n1"

func firstPut(e *evidence) history.Input {
	at := slices.IndexFunc(e.operations, func(o porcupine.Operation) bool { return o.Input.(history.Input).Kind == history.Put })
	return e.operations[at].Input.(history.Input)
}

// spoilExchange applies spoil to an orderly refusal by an undisturbed instance.
func spoilExchange(spoil func(*harness.Exchange)) func(*evidence) {
	return func(e *evidence) {
		refusal := harness.Exchange{Method: "PUT", Path: "/nodes/a", To: "n0:8080", Began: time.Now(), Took: promptly / 2, Status: 503, Code: "no_leader",
			Header: http.Header{"Retry-After": {"1"}, "Content-Type": {"application/problem+json"}}}
		spoil(&refusal)
		e.exchanges = append(e.exchanges, refusal)
	}
}

// copied returns a copy of the evidence that can be spoilt.
func (e *evidence) copied() *evidence {
	c := *e
	c.operations, c.writes, c.exchanges = slices.Clone(e.operations), slices.Clone(e.writes), slices.Clone(e.exchanges)
	c.changes, c.leads, c.faults = slices.Clone(e.changes), maps.Clone(e.leads), maps.Clone(e.faults)
	c.streams, c.after = map[string][]harness.Change{}, map[string]harness.Registry{}
	for name, stream := range e.streams {
		c.streams[name] = slices.Clone(stream)
	}
	for id, registry := range e.after {
		c.after[id] = harness.Registry{Revision: registry.Revision, Nodes: maps.Clone(registry.Nodes)}
	}
	return &c
}

// The evidence comes from a real round on one host, so it needs no root.
func TestEachCheckFindsWhatIsWrong(t *testing.T) {
	f := newField(t, harness.Options{}, light, 1)
	good := f.observe(nemeses[0])
	for _, c := range checks {
		if err := c.check(good); err != nil {
			t.Fatalf("check %q of good evidence = %v, want no error", c.name, err)
		}
	}
	found := map[string]bool{}
	for _, s := range spoilers {
		e := good.copied()
		s.spoil(e)
		at := slices.IndexFunc(checks, func(c check) bool { return c.name == s.check })
		if err := checks[at].check(e); err == nil {
			t.Errorf("check %q of evidence with %s found nothing, want an error", s.check, s.what)
		}
		found[s.check] = true
	}
	for _, c := range checks {
		if !found[c.name] {
			t.Errorf("no spoiler tests the check %q", c.name)
		}
	}
}

// An instance is not to blame for requests that it does not answer while paused.
func TestADisturbanceExcusesAnInstance(t *testing.T) {
	now := time.Now()
	late := harness.Exchange{To: "n1:8080", Began: now, Took: deadline + 1}
	tests := map[string]struct {
		disturbed map[string][]span
		excused   bool
	}{
		"no disturbance":              {nil, false},
		"paused during the request":   {map[string][]span{"n1:8080": {{now.Add(time.Second), now.Add(2 * time.Second)}}}, true},
		"paused before the request":   {map[string][]span{"n1:8080": {{now.Add(-2 * time.Second), now.Add(-time.Second)}}}, false},
		"paused after the request":    {map[string][]span{"n1:8080": {{now.Add(time.Minute), now.Add(time.Hour)}}}, false},
		"paused without an end":       {map[string][]span{"n1:8080": {{from: now}}}, true},
		"another instance was paused": {map[string][]span{"n2:8080": {{now, now.Add(time.Second)}}}, false},
	}
	for name, test := range tests {
		e := &evidence{exchanges: []harness.Exchange{late}, disturbed: test.disturbed}
		if excused := keepsDeadline(e) == nil; excused != test.excused {
			t.Errorf("%s: excused = %v, want %v", name, excused, test.excused)
		}
	}
}

// A stall of the machine excuses a delay only by the length of the stall.
func TestStallsOfTheMachineExcuseDelays(t *testing.T) {
	began := time.Now()
	after := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	refusal := harness.Exchange{Began: began, Took: 1300 * time.Millisecond, Status: 503, Code: "no_leader",
		Header: http.Header{"Retry-After": {"1"}, "Content-Type": {"application/problem+json"}}}
	tests := map[string]struct {
		stalls  []span
		excused bool
	}{
		"no stall":                                      {nil, false},
		"a stall all the time":                          {[]span{{after(-1000), after(2000)}}, true},
		"a stall that is long enough":                   {[]span{{after(500), after(850)}}, true},
		"a stall that is too short":                     {[]span{{after(500), after(750)}}, false},
		"a stall before":                                {[]span{{after(-1000), after(0)}}, false},
		"a stall before and at the start":               {[]span{{after(-1000), after(200)}}, false},
		"a stall after":                                 {[]span{{after(1300), after(2000)}}, false},
		"a long stall before and a short one during it": {[]span{{after(-9000), after(-5000)}, {after(100), after(200)}}, false},
	}
	for name, test := range tests {
		e := &evidence{exchanges: []harness.Exchange{refusal}, stalls: test.stalls}
		if excused := refusesOrderly(e) == nil; excused != test.excused {
			t.Errorf("%s: excused = %v, want %v", name, excused, test.excused)
		}
	}
}

func TestGapsGiveTheLongestTimeWithoutAWrite(t *testing.T) {
	var writes []history.Write
	began := time.Now()
	for _, at := range []int{0, 500, 400, 1000, 1100, 1150} { // out of order, as goroutines note them
		writes = append(writes, history.Write{At: began.Add(time.Duration(at) * time.Millisecond)})
	}
	for since, want := range map[int]int{-1: 500, 300: 500, 450: 500, 1050: 100, 1120: 50, 2000: 0} {
		if got := gapSince(writes, began.Add(time.Duration(since)*time.Millisecond)).length(); got != time.Duration(want)*time.Millisecond {
			t.Errorf("longest gap since %d ms = %v, want %d ms", since, got, want)
		}
	}
	table := &gaps{}
	for n := range 200 {
		table.add(&evidence{nemesis: "kill", gap: span{began, began.Add(time.Duration(n) * time.Millisecond)}})
	}
	for percent, want := range map[int]int{50: 99, 99: 197, 100: 199} {
		if got := table.percentile("kill", percent); got != time.Duration(want)*time.Millisecond {
			t.Errorf("percentile %d = %v, want %d ms", percent, got, want)
		}
	}
	if table.total.rounds != 200 {
		t.Errorf("totals = %+v, want 200 rounds", table.total)
	}
}
