package domain_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// The registry must behave as its simplest model, command by command.
func TestARegistryAgreesWithItsModel(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		r, m := domain.NewRegistry(), newModel()
		for i, cmd := range commands().Draw(t, "commands") {
			changes, err := r.Apply(cmd)
			expected, reason := m.apply(cmd)
			mustAgree(t, fmt.Sprintf("command %d, %+v", i, cmd), outcomeOf(changes, err), outcomeOf(expected, reason))
			mustEqual(t, fmt.Sprintf("the registry after command %d", i), contentsOf(r.View()), m.contents())
			mustBeSound(t, r)
			for _, change := range changes {
				seen[fmt.Sprintf("%T %s", cmd, change.Effect)]++
			}
			for _, sentinel := range []error{domain.ErrAddressInUse, domain.ErrConditionFailed, domain.ErrNoSuchNode} {
				if errors.Is(err, sentinel) != errors.Is(reason, sentinel) {
					t.Fatalf("error of command %d, %+v, = %v, want %v", i, cmd, err, reason)
				}
				if errors.Is(err, sentinel) {
					seen[fmt.Sprintf("%T %v", cmd, sentinel)]++
				}
			}
		}
	})
	for _, what := range []string{
		"Register added", "Register updated", "Register unchanged", "Register address in use", "Register precondition failed",
		"Deregister removed", "Deregister no such node", "Deregister precondition failed",
		"Batch added", "Batch updated", "Batch unchanged", "Batch removed",
		"Batch address in use", "Batch precondition failed", "Batch no such node",
		"Expire removed", "Expire updated", "Revive updated", "Revive unchanged", "Revive no such node",
	} {
		if seen["domain."+what] == 0 {
			t.Errorf("no command of the kind %s was examined", what)
		}
	}
}

// mustAgree compares an outcome of the registry with that of the model, whose error is only the
// beginning of the error.
func mustAgree(t fataler, what string, got, want outcome) {
	t.Helper()
	if !strings.HasPrefix(got.Error, want.Error) || (got.Error == "") != (want.Error == "") {
		t.Fatalf("%s: error = %q, want the prefix %q", what, got.Error, want.Error)
	}
	got.Error, want.Error = "", ""
	mustEqual(t, what, got, want)
}

func TestInvariantsOfARegistry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := domain.NewRegistry()
		views := []domain.View{r.View()}
		for _, cmd := range commands().Draw(t, "commands") {
			changes, _ := r.Apply(cmd) // a refused command has none
			now := views[len(views)-1].Revision()
			for _, change := range changes {
				if change.Effect != domain.Unchanged {
					now++
				}
				if change.Revision != now {
					t.Fatalf("revision of the change %s = %d, want %d", change.Effect, change.Revision, now)
				}
			}
			v := r.View()
			if v.Revision() != now {
				t.Fatalf("revision of the registry = %d, want %d", v.Revision(), now)
			}
			mustHaveUniqueAddressesAndSlots(t, v)
			views = append(views, v)
		}
		last := views[len(views)-1]
		for _, v := range views {
			changes, reaches := last.Since(v.Revision())
			if !reaches {
				t.Fatalf("the history does not reach back to %d", v.Revision())
			}
			mustEqual(t, fmt.Sprintf("revision %d and the changes since", v.Revision()),
				replayed(t, v, changes), contentsOf(last).Nodes)
		}
	})
}

func mustHaveUniqueAddressesAndSlots(t fataler, v domain.View) {
	t.Helper()
	addresses, slots := map[string]string{}, map[string]string{}
	for n := range v.Nodes() {
		place := fmt.Sprintf("%s/%d", n.Pool, n.Slot)
		if other, taken := addresses[n.Address]; taken {
			t.Fatalf("%s and %s share the address %s", other, n.ID, n.Address)
		}
		if other, taken := slots[place]; taken {
			t.Fatalf("%s and %s share the slot %s", other, n.ID, place)
		}
		addresses[n.Address], slots[place] = n.ID, n.ID
	}
}

// replayed returns the nodes of a client that had the nodes of v and then received the changes.
func replayed(t fataler, v domain.View, changes []domain.Change) []domain.CacheNode {
	t.Helper()
	nodes := map[string]domain.CacheNode{}
	for n := range v.Nodes() {
		nodes[n.ID] = *n
	}
	for _, change := range changes {
		switch had, known := nodes[change.Node.ID]; {
		case known != (change.Effect != domain.Added), known != (change.Previous != nil):
			t.Fatalf("revision %d: %s %q, previous %v, and it was there before: %t", change.Revision, change.Effect, change.Node.ID, change.Previous, known)
		case known:
			mustEqual(t, "the previous node of a change", *change.Previous, had)
		}
		if change.Effect == domain.Removed {
			delete(nodes, change.Node.ID)
		} else {
			nodes[change.Node.ID] = *change.Node
		}
	}
	m := model{nodes: nodes}
	return m.contents().Nodes
}

func TestTheSameCommandsMakeTheSameRegistry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, other := domain.NewRegistry(), domain.NewRegistry()
		for i, cmd := range commands().Draw(t, "commands") {
			mustEqual(t, fmt.Sprintf("the result of command %d", i), outcomeOf(other.Apply(cmd)), outcomeOf(one.Apply(cmd)))
		}
		mustEqual(t, "the registry", contentsOf(other.View()), contentsOf(one.View()))
	})
}

func TestARestoredRegistryGoesOnAsTheOriginal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := commands().Draw(t, "commands")
		at := rapid.IntRange(0, len(all)).Draw(t, "restored after")
		original := domain.NewRegistry()
		for _, cmd := range all[:at] {
			_, _ = original.Apply(cmd) // refusals are part of what is examined
		}
		restored := restore(t, original.View())
		mustEqual(t, "the restored registry", contentsOf(restored.View()), contentsOf(original.View()))
		mustBeSound(t, restored)
		mustGoOnAlike(t, restored, original, all[at:])
	})
}

// A refused batch leaves no trace, not even in the effects of later commands.
func TestARefusedBatchHasNoEffect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := commands().Draw(t, "commands")
		at := rapid.IntRange(0, len(all)).Draw(t, "refused after")
		tried, spared, m := domain.NewRegistry(), domain.NewRegistry(), newModel()
		for _, cmd := range all[:at] {
			_, _ = tried.Apply(cmd) // refusals are part of what is examined
			_, _ = spared.Apply(cmd)
			_, _ = m.apply(cmd)
		}
		failing := drawBatch(t, m)
		failing.Commands = slices.Insert(failing.Commands,
			rapid.IntRange(0, len(failing.Commands)).Draw(t, "place of the impossible"), domain.Command(remove("nobody")))
		if changes, err := tried.Apply(failing); err == nil || changes != nil {
			t.Fatalf("Apply of a failing batch = %+v, %v, want an error", changes, err)
		}
		mustEqual(t, "the registry after the refusal", contentsOf(tried.View()), contentsOf(spared.View()))
		mustBeSound(t, tried)
		mustGoOnAlike(t, tried, spared, all[at:])
	})
}

func restore(t fataler, v domain.View) *domain.Registry {
	t.Helper()
	r, err := domain.RestoreRegistry(v.Revision(), slices.Collect(v.Nodes()), v.History())
	if err != nil {
		t.Fatalf("restore at revision %d: %v, want success", v.Revision(), err)
	}
	return r
}

func TestNodesAreRestoredInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := domain.NewRegistry()
		for _, cmd := range commands().Draw(t, "commands") {
			_, _ = r.Apply(cmd) // a refusal changes nothing
		}
		v := r.View()
		nodes := rapid.Permutation(slices.Collect(v.Nodes())).Draw(t, "order")
		restored, err := domain.RestoreRegistry(v.Revision(), nodes, v.History())
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the registry", contentsOf(restored.View()), contentsOf(v))
		mustBeSound(t, restored)
	})
}

// A history that was trimmed by number or by size is restored with the same limits.
func TestARestoredHistoryIsTrimmedAsTheOriginal(t *testing.T) {
	tests := map[string]domain.CacheNode{
		"by number": node(t, "a", "h:1"),
		"by bytes":  greatest(t, "a", "h:1", "x"),
	}
	for name, n := range tests {
		t.Run(name, func(t *testing.T) {
			change := func(r *domain.Registry, times int) {
				for range times {
					n.Weight = int(r.View().Revision())
					apply(t, r, put(n))
				}
			}
			original := domain.NewRegistry()
			change(original, 11_000)
			restored := restore(t, original.View())
			for range 3 {
				change(original, 700)
				change(restored, 700)
				if !reflect.DeepEqual(contentsOf(restored.View()), contentsOf(original.View())) {
					t.Fatalf("at revision %d they keep %d and %d changes", original.View().Revision(),
						len(restored.View().History()), len(original.View().History()))
				}
			}
		})
	}
}

func TestRestoreRefusesImpossibleRegistries(t *testing.T) {
	v := registryOf(t, put(node(t, "a", "h:1")), put(node(t, "b", "h:2")), put(node(t, "b", "h:3"))).View()
	tests := map[string]func(c *contents){
		"a history with a gap":                   func(c *contents) { c.History = slices.Delete(c.History, 1, 2) },
		"a history that ends too early":          func(c *contents) { c.History = c.History[:2] },
		"a history that is out of order":         func(c *contents) { slices.Reverse(c.History) },
		"a history longer than the revision":     func(c *contents) { c.Revision, c.Nodes = 1, c.Nodes[:1] },
		"a history from before the first change": func(c *contents) { c.History = append([]domain.Change{{Node: &c.Nodes[0]}}, c.History...) },
		"a change without its node":              func(c *contents) { c.History[0].Node = nil },
		"two nodes with one id":                  func(c *contents) { c.Nodes[1].ID = "a" },
		"two nodes with one address":             func(c *contents) { c.Nodes[1].Address = "H:1" },
		"two nodes in one slot":                  func(c *contents) { c.Nodes[1].Slot = 0 },
		"a slot below the first":                 func(c *contents) { c.Nodes[1].Slot = -1 },
		"a slot beyond the last":                 func(c *contents) { c.Nodes[1].Slot = domain.MaxNodes },
		"a node from the future":                 func(c *contents) { c.Nodes[1].Revision = 4 },
		"a node that was never created":          func(c *contents) { c.Nodes[1].CreatedRevision = 0 },
		"a node created after its last change":   func(c *contents) { c.Nodes[0].CreatedRevision = 2 },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			c := contentsOf(v)
			damage(&c)
			var nodes []*domain.CacheNode
			for i := range c.Nodes {
				nodes = append(nodes, &c.Nodes[i])
			}
			if _, err := domain.RestoreRegistry(c.Revision, nodes, c.History); err == nil {
				t.Fatal("RestoreRegistry = nil, want an error")
			}
		})
	}
	t.Run("an undamaged registry is restored", func(t *testing.T) {
		mustEqual(t, "contents", contentsOf(restore(t, v).View()), contentsOf(v))
	})
	t.Run("a registry without its history", func(t *testing.T) {
		r, err := domain.RestoreRegistry(v.Revision(), slices.Collect(v.Nodes()), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, reaches := r.View().Since(2); reaches {
			t.Error("the restored registry has changes from before its history")
		}
		if changes, reaches := r.View().Since(3); !reaches || len(changes) != 0 {
			t.Errorf("Since of its own revision = %v, %v, want none", changes, reaches)
		}
	})
}
