package domain_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// fataler is the part of *testing.T and *rapid.T that the helpers need.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// node returns a valid node; more changes the spec that it is made of.
func node(t fataler, id, address string, more ...func(*domain.NodeSpec)) domain.CacheNode {
	t.Helper()
	spec := domain.NodeSpec{ID: id, Address: address}
	for _, change := range more {
		change(&spec)
	}
	n, err := domain.NewCacheNode(spec)
	if err != nil {
		t.Fatalf("a valid node was refused: %v", err)
	}
	return n
}

func inPool(pool string) func(*domain.NodeSpec) {
	return func(spec *domain.NodeSpec) { spec.Pool = &pool }
}

func weighing(weight int) func(*domain.NodeSpec) {
	return func(spec *domain.NodeSpec) { spec.Weight = &weight }
}

func inState(state domain.State) func(*domain.NodeSpec) {
	return func(spec *domain.NodeSpec) { spec.State = &state }
}

// leased gives the node a time to live, and sets what happens when it expires.
func leased(end domain.OnExpiry) func(*domain.NodeSpec) {
	seconds := 30
	return func(spec *domain.NodeSpec) { spec.TTLSeconds, spec.OnExpiry = &seconds, &end }
}

func put(n domain.CacheNode) domain.Register { return domain.Register{Node: n} }

func remove(id string) domain.Deregister { return domain.Deregister{ID: id} }

func batch(commands ...domain.Command) domain.Batch { return domain.Batch{Commands: commands} }

// expire expires one node.
func expire(id string, revision domain.Revision) domain.Expire {
	return domain.Expire{Nodes: []domain.NodeAt{{ID: id, Revision: revision}}}
}

func revive(id string) domain.Revive { return domain.Revive{ID: id} }

func list(commands ...domain.Command) []domain.Command { return commands }

func when(n domain.CacheNode, c domain.Condition) domain.Register {
	return domain.Register{Node: n, If: c}
}

func gone(id string, c domain.Condition) domain.Deregister { return domain.Deregister{ID: id, If: c} }

var absent, present = domain.Condition{Expect: domain.Absent}, domain.Condition{Expect: domain.Present}

func at(r domain.Revision) domain.Condition {
	return domain.Condition{Expect: domain.AtRevision, Revision: r}
}

// apply carries out commands, none of which may be refused, and returns the change of the
// last one.
func apply(t fataler, r *domain.Registry, commands ...domain.Command) domain.Change {
	t.Helper()
	var change domain.Change
	for _, cmd := range commands {
		var err error
		if change, err = only(r.Apply(cmd)); err != nil {
			t.Fatalf("Apply of %+v = %v, want success", cmd, err)
		}
	}
	return change
}

// only returns the only change of a command that makes at most one.
func only(changes []domain.Change, err error) (domain.Change, error) {
	if len(changes) != 1 {
		return domain.Change{}, err
	}
	return changes[0], err
}

// registryOf returns a new registry after these commands.
func registryOf(t fataler, commands ...domain.Command) *domain.Registry {
	t.Helper()
	r := domain.NewRegistry()
	apply(t, r, commands...)
	return r
}

// contents is everything that a view shows, as values.
type contents struct {
	Revision domain.Revision
	Nodes    []domain.CacheNode
	History  []domain.Change
}

func contentsOf(v domain.View) contents {
	c := contents{Revision: v.Revision(), History: slices.Clone(v.History())}
	for n := range v.Nodes() {
		c.Nodes = append(c.Nodes, *n)
	}
	return c
}

// outcome is the result of Apply, as values that can be compared.
type outcome struct {
	Changes []domain.Change
	Error   string
	Refused domain.Revision
	Current *domain.CacheNode
}

func outcomeOf(changes []domain.Change, err error) outcome {
	o := outcome{Changes: append([]domain.Change(nil), changes...)}
	var refusal *domain.Refusal
	if errors.As(err, &refusal) {
		o.Error, o.Refused, o.Current = refusal.Error(), refusal.Revision, refusal.Current
	}
	return o
}

// mustGoOnAlike applies the same commands to both registries, and compares every result and the
// final contents.
func mustGoOnAlike(t fataler, got, want *domain.Registry, commands []domain.Command) {
	t.Helper()
	for i, cmd := range commands {
		mustEqual(t, fmt.Sprintf("the result of command %d afterwards", i), outcomeOf(got.Apply(cmd)), outcomeOf(want.Apply(cmd)))
	}
	mustEqual(t, "the registry in the end", contentsOf(got.View()), contentsOf(want.View()))
	mustBeSound(t, got)
}

// mustBeSound checks what no view shows.
func mustBeSound(t fataler, r *domain.Registry) {
	t.Helper()
	if err := r.Audit(); err != nil {
		t.Fatalf("audit at revision %d: %v", r.View().Revision(), err)
	}
}

func mustEqual(t fataler, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func slotsOf(v domain.View, pool string) map[string]int {
	slots := map[string]int{}
	for n := range v.Nodes() {
		if n.Pool == pool {
			slots[n.ID] = n.Slot
		}
	}
	return slots
}

func address(i int) string { return fmt.Sprintf("10.%d.%d.%d:11211", i>>16, i>>8&255, i&255) }
