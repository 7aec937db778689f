package domain_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// filter returns the filter with all these parts.
func filter(parts ...func(*domain.Filter)) domain.Filter {
	var f domain.Filter
	for _, part := range parts {
		part(&f)
	}
	return f
}

func ofPool(pool string) func(*domain.Filter)     { return func(f *domain.Filter) { f.Pool = &pool } }
func ofState(s domain.State) func(*domain.Filter) { return func(f *domain.Filter) { f.State = &s } }
func ofZone(zone string) func(*domain.Filter)     { return func(f *domain.Filter) { f.Zone = &zone } }
func labelled(key, value string) func(*domain.Filter) {
	return func(f *domain.Filter) { f.Labels = append(f.Labels, domain.Label{Key: key, Value: value}) }
}

func labelledTimes(n int) func(*domain.Filter) {
	return func(f *domain.Filter) {
		for i := range n {
			labelled(fmt.Sprintf("k%d", i), "v")(f)
		}
	}
}

func TestFilterValidate(t *testing.T) {
	tests := map[string]struct {
		filter domain.Filter
		field  string // of the fault; empty: it is valid
	}{
		"all nodes may be wanted":                       {filter: filter()},
		"everything may be said":                        {filter: filter(ofPool("p"), ofState(domain.Down), ofZone("z"), labelled("k", "v"))},
		"a pool is named as ids are":                    {filter: filter(ofPool("-p")), field: "pool"},
		"a pool that is given must not be empty":        {filter: filter(ofPool("")), field: "pool"},
		"a pool of 129 bytes is too long":               {filter: filter(ofPool(strings.Repeat("p", 129))), field: "pool"},
		"active is a state":                             {filter: filter(ofState(domain.Active))},
		"draining is a state":                           {filter: filter(ofState(domain.Draining))},
		"a state that is given must not be empty":       {filter: filter(ofState("")), field: "state"},
		"a state must be one":                           {filter: filter(ofState("gone")), field: "state"},
		"no zone may be wanted":                         {filter: filter(ofZone(""))},
		"a zone of 128 bytes is the longest":            {filter: filter(ofZone(strings.Repeat("z", 128)))},
		"a zone of 129 bytes is too long":               {filter: filter(ofZone(strings.Repeat("z", 129))), field: "zone"},
		"a zone must be valid UTF-8":                    {filter: filter(ofZone("\xff")), field: "zone"},
		"a zone must not have a control character":      {filter: filter(ofZone("\n")), field: "zone"},
		"a label's value may be empty":                  {filter: filter(labelled("k", ""))},
		"a label's key must not be empty":               {filter: filter(labelled("", "v")), field: "label"},
		"a label's key is named as ids are":             {filter: filter(labelled("a b", "v")), field: "label"},
		"a label's value of 256 bytes is the longest":   {filter: filter(labelled("k", strings.Repeat("v", 256)))},
		"a label's value of 257 bytes is too long":      {filter: filter(labelled("k", strings.Repeat("v", 257))), field: "label"},
		"a label's value must be valid UTF-8":           {filter: filter(labelled("k", "\xff")), field: "label"},
		"the second label is looked at as well":         {filter: filter(labelled("k", "v"), labelled("-", "v")), field: "label"},
		"a label may be wanted twice":                   {filter: filter(labelled("k", "v"), labelled("k", "v"))},
		"a label may be wanted with two values at once": {filter: filter(labelled("k", "v"), labelled("k", "w"))},
		"32 labels are the most":                        {filter: filter(labelledTimes(32))},
		"33 labels are too many":                        {filter: filter(labelledTimes(33)), field: "label"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.filter.Validate()
			if test.field == "" {
				if err != nil {
					t.Fatalf("Validate = %v, want no error", err)
				}
				return
			}
			var invalid *domain.InvalidError
			if !errors.Is(err, domain.ErrInvalid) || !errors.As(err, &invalid) {
				t.Fatalf("Validate = %v, want an InvalidError", err)
			}
			if invalid.Field != test.field || !strings.HasPrefix(err.Error(), test.field+" ") {
				t.Errorf("field of the error = %q, want %q: %v", invalid.Field, test.field, err)
			}
		})
	}
}

func TestFilterValidateReportsAllFaults(t *testing.T) {
	err := filter(ofPool("-"), ofState("gone"), ofZone("\x00"), labelled("/", "\x01")).Validate()
	if err == nil {
		t.Fatal("Validate = nil, want an error")
	}
	rest := err.Error()
	for _, field := range []string{"pool ", "state ", "zone ", "label ", "label "} {
		_, after, found := strings.Cut(rest, field)
		if !found {
			t.Fatalf("error does not name %q, or not in this order: %v", field, err)
		}
		rest = after
	}
}

func TestFilterAll(t *testing.T) {
	tests := map[string]struct {
		filter domain.Filter
		want   bool
	}{
		"an empty filter matches all nodes":         {filter(), true},
		"an empty list of labels matches all nodes": {domain.Filter{Labels: []domain.Label{}}, true},
		"a pool leaves others out":                  {filter(ofPool("p")), false},
		"a state leaves others out":                 {filter(ofState(domain.Active)), false},
		"a zone leaves others out":                  {filter(ofZone("z")), false},
		"no zone leaves others out":                 {filter(ofZone("")), false},
		"a label leaves others out":                 {filter(labelled("k", "v")), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.filter.All(); got != test.want {
				t.Errorf("All = %v, want %v", got, test.want)
			}
		})
	}
}

func TestFilterMatches(t *testing.T) {
	n := node(t, "a", "h:1", inPool("p"), func(s *domain.NodeSpec) {
		s.Zone, s.Labels = "z", map[string]string{"rack": "r7", "tier": ""}
	})
	bare := node(t, "b", "h:2", inState(domain.Down))
	tests := map[string]struct {
		filter domain.Filter
		node   domain.CacheNode
		want   bool
	}{
		"all nodes are wanted":                            {filter(), n, true},
		"its pool is wanted":                              {filter(ofPool("p")), n, true},
		"another pool is wanted":                          {filter(ofPool("q")), n, false},
		"a pool is wanted in small letters":               {filter(ofPool("P")), n, false},
		"the default pool is a pool":                      {filter(ofPool("default")), bare, true},
		"its state is wanted":                             {filter(ofState(domain.Active)), n, true},
		"another state is wanted":                         {filter(ofState(domain.Draining)), n, false},
		"down is wanted":                                  {filter(ofState(domain.Down)), bare, true},
		"its zone is wanted":                              {filter(ofZone("z")), n, true},
		"another zone is wanted":                          {filter(ofZone("y")), n, false},
		"no zone is wanted, and the node has one":         {filter(ofZone("")), n, false},
		"no zone is wanted, and the node has none":        {filter(ofZone("")), bare, true},
		"a zone is wanted, and the node has none":         {filter(ofZone("z")), bare, false},
		"its label is wanted":                             {filter(labelled("rack", "r7")), n, true},
		"another value is wanted":                         {filter(labelled("rack", "r8")), n, false},
		"another key is wanted":                           {filter(labelled("row", "r7")), n, false},
		"its empty label is wanted":                       {filter(labelled("tier", "")), n, true},
		"an empty label is wanted, and the node has none": {filter(labelled("row", "")), n, false},
		"a label is wanted, and the node has no labels":   {filter(labelled("rack", "")), bare, false},
		"all its labels are wanted":                       {filter(labelled("tier", ""), labelled("rack", "r7")), n, true},
		"one of two labels is another":                    {filter(labelled("rack", "r7"), labelled("tier", "x")), n, false},
		"the first of two labels is another":              {filter(labelled("rack", "r8"), labelled("tier", "")), n, false},
		"two values of one label match no node":           {filter(labelled("rack", "r7"), labelled("rack", "r8")), n, false},
		"a label that is wanted twice is wanted":          {filter(labelled("rack", "r7"), labelled("rack", "r7")), n, true},
		"all that is wanted is true":                      {filter(ofPool("p"), ofState(domain.Active), ofZone("z"), labelled("rack", "r7")), n, true},
		"all that is wanted is true but the pool":         {filter(ofPool("q"), ofState(domain.Active), ofZone("z"), labelled("rack", "r7")), n, false},
		"all that is wanted is true but the state":        {filter(ofPool("p"), ofState(domain.Down), ofZone("z"), labelled("rack", "r7")), n, false},
		"all that is wanted is true but the zone":         {filter(ofPool("p"), ofState(domain.Active), ofZone(""), labelled("rack", "r7")), n, false},
		"all that is wanted is true but the label":        {filter(ofPool("p"), ofState(domain.Active), ofZone("z"), labelled("rack", "")), n, false},
		"all that is wanted is true, a label left open":   {filter(ofPool("p"), ofState(domain.Active), ofZone("z")), n, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.filter.Matches(&test.node); got != test.want {
				t.Errorf("Matches of %+v = %v, want %v", test.node, got, test.want)
			}
		})
	}
}

func TestFilterNormalized(t *testing.T) {
	tests := map[string]struct{ filter, want domain.Filter }{
		"an empty filter stays empty":         {filter(), filter()},
		"labels stand in order of their keys": {filter(labelled("b", "1"), labelled("a", "2")), filter(labelled("a", "2"), labelled("b", "1"))},
		"then of their values":                {filter(labelled("a", "2"), labelled("a", "1")), filter(labelled("a", "1"), labelled("a", "2"))},
		"each stands there once":              {filter(labelled("a", "1"), labelled("b", "1"), labelled("a", "1")), filter(labelled("a", "1"), labelled("b", "1"))},
		"two values of a key are two labels":  {filter(labelled("a", "1"), labelled("a", "2")), filter(labelled("a", "1"), labelled("a", "2"))},
		"key and value are not mixed up":      {filter(labelled("ab", "c"), labelled("a", "bc")), filter(labelled("a", "bc"), labelled("ab", "c"))},
		"the rest stays as it is": {
			filter(ofPool("p"), ofState(domain.Down), ofZone(""), labelled("b", ""), labelled("a", "")),
			filter(ofPool("p"), ofState(domain.Down), ofZone(""), labelled("a", ""), labelled("b", ""))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			given := slices.Clone(test.filter.Labels)
			mustEqual(t, "the filter", test.filter.Normalized(), test.want)
			mustEqual(t, "the filter, once more", test.want.Normalized(), test.want)
			mustEqual(t, "the labels that were given", test.filter.Labels, given)
		})
	}
}

func TestFilterChange(t *testing.T) {
	inP, heavyInP := node(t, "a", "h:1", inPool("p")), node(t, "a", "h:1", inPool("p"), weighing(7))
	inQ, heavyInQ := node(t, "a", "h:1", inPool("q")), node(t, "a", "h:1", inPool("q"), weighing(7))
	now := func(effect domain.Effect, previous, n *domain.CacheNode) domain.Change {
		return domain.Change{Revision: 9, Effect: effect, Reason: domain.ByRequest, Node: n, Previous: previous}
	}
	expired := func(c domain.Change) domain.Change { c.Reason = domain.ByExpiry; return c }
	const added, updated, removed = domain.Added, domain.Updated, domain.Removed
	none := domain.Change{} // no change for a subscriber to pool p

	tests := map[string]struct{ change, want domain.Change }{
		"a node that matches is added":          {now(added, nil, &inP), now(added, nil, &inP)},
		"another node is added":                 {now(added, nil, &inQ), none},
		"a node that matches is removed":        {now(removed, &inP, &inP), now(removed, &inP, &inP)},
		"another node is removed":               {now(removed, &inQ, &inQ), none},
		"a node matches before and after":       {now(updated, &inP, &heavyInP), now(updated, &inP, &heavyInP)},
		"a node comes to match":                 {now(updated, &inQ, &heavyInP), now(added, nil, &heavyInP)},
		"a node no longer matches":              {now(updated, &inP, &heavyInQ), now(removed, &inP, &inP)},
		"a node matches neither before nor now": {now(updated, &inQ, &heavyInQ), none},
		"expiry stays the reason":               {expired(now(updated, &inP, &heavyInP)), expired(now(updated, &inP, &heavyInP))},
		"expiry stays the reason of a removal":  {expired(now(updated, &inP, &inQ)), expired(now(removed, &inP, &inP))},
		"expiry stays the reason of an arrival": {expired(now(updated, &inQ, &inP)), expired(now(added, nil, &inP))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			given := test.change
			got, is := filter(ofPool("p")).Change(test.change)
			if is != (test.want.Effect != "") {
				t.Errorf("Change gives a change = %v, want %v", is, test.want.Effect != "")
			}
			mustEqual(t, "the change", got, test.want)
			mustEqual(t, "the change that was given", test.change, given)
			everything, is := domain.Filter{}.Change(test.change)
			if !is {
				t.Error("Change of a filter that matches all nodes gives none")
			}
			mustEqual(t, "the change to somebody who wants to know of all nodes", everything, test.change)
		})
	}
}

func filters() *rapid.Generator[domain.Filter] {
	return rapid.Custom(func(t *rapid.T) domain.Filter {
		var f domain.Filter
		if rapid.Bool().Draw(t, "by pool") {
			ofPool(rapid.SampledFrom([]string{"p", "q", "none"}).Draw(t, "pool"))(&f)
		}
		if rapid.Bool().Draw(t, "by state") {
			ofState(rapid.SampledFrom([]domain.State{domain.Active, domain.Draining, domain.Down}).Draw(t, "state"))(&f)
		}
		if rapid.IntRange(0, 3).Draw(t, "by zone") == 3 {
			ofZone(rapid.SampledFrom([]string{"", "z"}).Draw(t, "zone"))(&f)
		}
		if rapid.IntRange(0, 3).Draw(t, "by label") == 3 {
			some := rapid.SampledFrom([]domain.Label{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}, {Key: "l"}})
			f.Labels = rapid.SliceOfN(some, 1, 2).Draw(t, "labels")
		}
		return f
	})
}

// matching returns the list that a client with the filter gets.
func matching(f domain.Filter, nodes map[string]domain.CacheNode) []domain.CacheNode {
	var matching []domain.CacheNode
	for _, n := range (&model{nodes: nodes}).contents().Nodes {
		if f.Matches(&n) {
			matching = append(matching, n)
		}
	}
	return matching
}

// follow applies a change to the nodes that a client knows, and fails unless the change
// fits them.
func follow(t fataler, known map[string]domain.CacheNode, c domain.Change) {
	t.Helper()
	before, found := known[c.Node.ID]
	if found != (c.Effect != domain.Added) || found != (c.Previous != nil) {
		t.Fatalf("revision %d: %q is %s, but was known = %v", c.Revision, c.Node.ID, c.Effect, found)
	}
	if found {
		mustEqual(t, fmt.Sprintf("%q before revision %d", c.Node.ID, c.Revision), *c.Previous, before)
	}
	if c.Effect == domain.Removed {
		mustEqual(t, fmt.Sprintf("%q as it was last", c.Node.ID), *c.Node, before)
		delete(known, c.Node.ID)
		return
	}
	known[c.Node.ID] = *c.Node
}

// A client that has the filtered list at some revision and applies the filtered changes has the
// filtered list at every later revision.
func TestFilteredChangesLeadToTheFilteredList(t *testing.T) {
	told := map[domain.Effect]int{}
	rapid.Check(t, func(t *rapid.T) {
		f := filters().Draw(t, "filter")
		r := domain.NewRegistry()
		views := []domain.View{r.View()}
		for _, cmd := range commands().Draw(t, "commands") {
			_, _ = r.Apply(cmd) // refusals are part of what is examined
			if v := r.View(); v.Revision() != views[len(views)-1].Revision() {
				views = append(views, v)
			}
		}
		byRevision := map[domain.Revision]domain.View{}
		for _, v := range views {
			byRevision[v.Revision()] = v
		}
		start := rapid.IntRange(0, len(views)-1).Draw(t, "known at first")
		all, some := map[string]domain.CacheNode{}, map[string]domain.CacheNode{}
		for n := range views[start].Nodes() {
			all[n.ID] = *n
			if f.Matches(n) {
				some[n.ID] = *n
			}
		}
		changes, reaches := r.View().Since(views[start].Revision())
		if !reaches {
			t.Fatalf("the history does not reach back to %d", views[start].Revision())
		}
		for _, change := range changes {
			follow(t, all, change)
			filtered, is := f.Change(change)
			if is {
				told[filtered.Effect]++
				if filtered.Revision != change.Revision || filtered.Reason != change.Reason {
					t.Fatalf("filtered change = %d %q, want %d %q", filtered.Revision, filtered.Reason, change.Revision, change.Reason)
				}
				follow(t, some, filtered)
			} else {
				told[domain.Unchanged]++
			}
			what := fmt.Sprintf("the list at revision %d", change.Revision)
			mustEqual(t, what, matching(filter(), some), matching(f, all))
			if v, shown := byRevision[change.Revision]; shown {
				mustEqual(t, what+", without a filter", matching(filter(), all), contentsOf(v).Nodes)
			}
		}
	})
	for _, effect := range []domain.Effect{domain.Added, domain.Updated, domain.Removed, domain.Unchanged} {
		if told[effect] == 0 {
			t.Errorf("no change of the kind %s was examined", effect)
		}
	}
}

func TestANormalizedFilterMatchesTheSameNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := filters().Draw(t, "filter")
		n := drawNode(t, "a")
		if f.Matches(&n) != f.Normalized().Matches(&n) || f.All() != f.Normalized().All() {
			t.Fatalf("%+v and its normalized form %+v differ on %+v", f, f.Normalized(), n)
		}
	})
}
