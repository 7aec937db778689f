package faults

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// spoilers turn good evidence into evidence of a fault, by the check that has to find it.
var spoilers = []struct {
	what, check string
	spoil       func(*evidence)
}{
	{"idle clients", "there was load", func(e *evidence) { e.operations = e.operations[:fewestOperations-1] }},
	{"no writes", "there was load", func(e *evidence) { e.writes = nil }},
	{"no renewals", "there was load", func(e *evidence) { e.renewals = 0 }},
	{"no fault", "there was a fault", func(e *evidence) { e.injected = 0 }},
	{"a fault that nobody noticed", "there was a fault", func(e *evidence) { e.termAfter = e.termBefore }},
	{"a reader that sees what was before", "what clients saw is linearizable", func(e *evidence) {
		last := e.operations[len(e.operations)-1]
		last.Input = history.Input{Kind: history.Get, Node: firstPut(e).Node}
		last.Output = history.Output{Present: true, Value: firstPut(e).Value - 1_000_000}
		last.Call, last.Return = last.Return+1, last.Return+2
		e.operations = append(e.operations, last)
	}},
	{"a write that is lost", "what was acknowledged is there", func(e *evidence) {
		lost := e.writes[len(e.writes)/2].Revision
		e.changes = slices.DeleteFunc(e.changes, func(c harness.Change) bool { return c.Revision == lost })
	}},
	{"a write in the place of another", "what was acknowledged is there", func(e *evidence) { e.writes[0].Value++ }},
	{"a write that was answered with the revision of another", "what was acknowledged is there", func(e *evidence) {
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
	{"a stream that loses a change", "streams tell the history", func(e *evidence) {
		e.streams[streamOfN1] = slices.Delete(e.streams[streamOfN1], 5, 6)
	}},
	{"a stream that tells a change twice", "streams tell the history", func(e *evidence) {
		e.streams[streamOfN1] = slices.Insert(e.streams[streamOfN1], 5, e.streams[streamOfN1][5])
	}},
	{"a stream out of order", "streams tell the history", func(e *evidence) {
		told := e.streams[streamOfN1]
		told[5], told[6] = told[6], told[5]
	}},
	{"a stream that tells something else", "streams tell the history", func(e *evidence) {
		e.streams[streamOfN1][5].Node.Zone = "elsewhere"
	}},
	{"a stream that does what it may not", "streams tell the history", func(e *evidence) {
		e.faults[streamOfN1] = errors.New("a change in the middle of a snapshot")
	}},
	{"two leaders of a term", "a term has one leader", func(e *evidence) { e.leads[e.termAfter] = []string{"n1", "n2"} }},
	{"a cluster that stays down", "it recovers", func(e *evidence) { e.recovered = recovery + 1 }},
	{"an error of the server", "refusals are orderly", spoilExchange(func(x *harness.Exchange) { x.Status = 500 })},
	{"a refusal that does not say when to come back", "refusals are orderly", spoilExchange(func(x *harness.Exchange) {
		x.Header.Del("Retry-After")
	})},
	{"a refusal that is no problem document", "refusals are orderly", spoilExchange(func(x *harness.Exchange) {
		x.Header.Set("Content-Type", "text/plain")
	})},
	{"a refusal that is no JSON", "refusals are orderly", spoilExchange(func(x *harness.Exchange) { x.Code = "" })},
	{"a refusal that comes late", "refusals are orderly", spoilExchange(func(x *harness.Exchange) { x.Took = 2 * promptly })},
	{"a refusal that comes late, though the machine did not stand still for long meanwhile", "refusals are orderly", func(e *evidence) {
		now := time.Now()
		e.stalls = []span{{now.Add(-time.Minute), now.Add(promptly / 2)}, {now.Add(2 * promptly), now.Add(time.Minute)}}
		spoilExchange(func(x *harness.Exchange) { x.Began, x.Took = now, 2*promptly })(e)
	}},
	{"a request that hangs", "requests keep their deadline", spoilExchange(func(x *harness.Exchange) {
		x.Status, x.Took = 0, 2*deadline
	})},
	{"a node that expires though it is renewed", "who renews does not expire", func(e *evidence) { e.changes[7].Reason = "expired" }},
	{"a client of another instance that is refused", "others notice nothing", func(e *evidence) {
		e.aside, e.termAfter = true, e.termBefore
		spoilExchange(func(*harness.Exchange) {})(e)
	}},
	{"a client of another instance that is cut off", "others notice nothing", func(e *evidence) {
		e.aside, e.termAfter = true, e.termBefore
		spoilExchange(func(x *harness.Exchange) { x.Status, x.Err = 0, errors.New("connection reset") })(e)
	}},
	{"a renewal that is refused", "who renews does not expire", func(e *evidence) { e.refused = errors.New("there is no such node") }},
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

// copied gives a copy of the evidence that can be spoilt.
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
			t.Fatalf("nothing is spoilt, and not so: %s: %v", c.name, err)
		}
	}
	found := map[string]bool{}
	for _, s := range spoilers {
		e := good.copied()
		s.spoil(e)
		at := slices.IndexFunc(checks, func(c check) bool { return c.name == s.check })
		if err := checks[at].check(e); err == nil {
			t.Errorf("%s: it is not found that this is not so: %s", s.what, s.check)
		}
		found[s.check] = true
	}
	for _, c := range checks {
		if !found[c.name] {
			t.Errorf("no evidence is spoilt for: %s", c.name)
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
		"nobody was disturbed":        {nil, false},
		"it was paused then":          {map[string][]span{"n1:8080": {{now.Add(time.Second), now.Add(2 * time.Second)}}}, true},
		"it was paused before":        {map[string][]span{"n1:8080": {{now.Add(-2 * time.Second), now.Add(-time.Second)}}}, false},
		"it was paused after":         {map[string][]span{"n1:8080": {{now.Add(time.Minute), now.Add(time.Hour)}}}, false},
		"it is paused for ever":       {map[string][]span{"n1:8080": {{from: now}}}, true},
		"another one was paused then": {map[string][]span{"n2:8080": {{now, now.Add(time.Second)}}}, false},
	}
	for name, test := range tests {
		e := &evidence{exchanges: []harness.Exchange{late}, disturbed: test.disturbed}
		if excused := keepsDeadline(e) == nil; excused != test.excused {
			t.Errorf("%s: it is excused: %v", name, excused)
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
		"it never did":              {nil, false},
		"all the time":              {[]span{{after(-1000), after(2000)}}, true},
		"for long enough":           {[]span{{after(500), after(850)}}, true},
		"not for long enough":       {[]span{{after(500), after(750)}}, false},
		"before":                    {[]span{{after(-1000), after(0)}}, false},
		"before, and at the start":  {[]span{{after(-1000), after(200)}}, false},
		"after":                     {[]span{{after(1300), after(2000)}}, false},
		"for long only another day": {[]span{{after(-9000), after(-5000)}, {after(100), after(200)}}, false},
	}
	for name, test := range tests {
		e := &evidence{exchanges: []harness.Exchange{refusal}, stalls: test.stalls}
		if excused := refusesOrderly(e) == nil; excused != test.excused {
			t.Errorf("%s: it is excused: %v", name, excused)
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
			t.Errorf("since %d ms the longest gap is %v, want %d ms", since, got, want)
		}
	}
	table := &gaps{}
	for n := range 200 {
		table.add(&evidence{nemesis: "kill", gap: span{began, began.Add(time.Duration(n) * time.Millisecond)}})
	}
	for percent, want := range map[int]int{50: 99, 99: 197, 100: 199} {
		if got := table.percentile("kill", percent); got != time.Duration(want)*time.Millisecond {
			t.Errorf("percentile %d is %v, want %d ms", percent, got, want)
		}
	}
	if table.total.rounds != 200 {
		t.Error(fmt.Sprint(table.total))
	}
}
