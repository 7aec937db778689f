package domain_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// The registry does what its plainest form does, command by command.
func TestARegistryIsItsModel(t *testing.T) {
	refused := map[error]int{domain.ErrAddressInUse: 0, domain.ErrConditionFailed: 0, domain.ErrNoSuchNode: 0}
	rapid.Check(t, func(t *rapid.T) {
		r, m := domain.NewRegistry(), newModel()
		for i, cmd := range commands().Draw(t, "commands") {
			change, err := only(r.Apply(cmd))
			expected, reason := m.apply(cmd)
			if !errors.Is(err, reason) || (err == nil) != (reason == nil) {
				t.Fatalf("command %d, %+v: %v, want %v", i, cmd, err, reason)
			}
			if reason != nil {
				refused[reason]++
			}
			mustEqual(t, fmt.Sprintf("what command %d did", i), change, expected)
			mustEqual(t, fmt.Sprintf("the registry after command %d", i), contentsOf(r.View()), m.contents())
		}
	})
	for reason, times := range refused {
		if times == 0 {
			t.Errorf("nothing was refused for %v: that was not examined", reason)
		}
	}
}

func TestInvariantsOfARegistry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := domain.NewRegistry()
		views := []domain.View{r.View()} // by revision
		for _, cmd := range commands().Draw(t, "commands") {
			change, err := only(r.Apply(cmd))
			v := r.View()
			mustHaveUniqueAddressesAndSlots(t, v)
			switch {
			case err == nil && change.Effect != domain.Unchanged:
				if v.Revision() != domain.Revision(len(views)) {
					t.Fatalf("revision %d follows on %d", v.Revision(), len(views)-1)
				}
				views = append(views, v)
			case v.Revision() != domain.Revision(len(views)-1):
				t.Fatalf("revision %d without a change", v.Revision())
			}
		}
		last := views[len(views)-1]
		for _, v := range views {
			changes, reaches := last.Since(v.Revision())
			if !reaches {
				t.Fatalf("history does not reach back to %d", v.Revision())
			}
			mustEqual(t, fmt.Sprintf("revision %d and the changes since", v.Revision()),
				replayed(v, changes), contentsOf(last).Nodes)
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

// replayed is what a client knows that had the nodes of v and then was told the
// changes.
func replayed(v domain.View, changes []domain.Change) []domain.CacheNode {
	nodes := map[string]domain.CacheNode{}
	for n := range v.Nodes() {
		nodes[n.ID] = *n
	}
	for _, change := range changes {
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
			mustEqual(t, fmt.Sprintf("what command %d did", i), outcomeOf(only(other.Apply(cmd))), outcomeOf(only(one.Apply(cmd))))
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
		for i, cmd := range all[at:] {
			mustEqual(t, fmt.Sprintf("what command %d after that did", i), outcomeOf(only(restored.Apply(cmd))), outcomeOf(only(original.Apply(cmd))))
		}
		mustEqual(t, "the registry in the end", contentsOf(restored.View()), contentsOf(original.View()))
	})
}

func restore(t fataler, v domain.View) *domain.Registry {
	t.Helper()
	r, err := domain.RestoreRegistry(v.Revision(), slices.Collect(v.Nodes()), v.History())
	if err != nil {
		t.Fatalf("restore at revision %d: %v", v.Revision(), err)
	}
	return r
}

// A trimmed history, by number and by bytes, is restored with its limits.
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

func TestRestoreRefusesWhatNoRegistryCanBe(t *testing.T) {
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
				t.Fatal("restored")
			}
		})
	}
	t.Run("what is not damaged is restored", func(t *testing.T) {
		mustEqual(t, "contents", contentsOf(restore(t, v).View()), contentsOf(v))
	})
	t.Run("a registry without its history", func(t *testing.T) {
		r, err := domain.RestoreRegistry(v.Revision(), slices.Collect(v.Nodes()), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, reaches := r.View().Since(2); reaches {
			t.Error("it knows changes that it was not given")
		}
		if changes, reaches := r.View().Since(3); !reaches || len(changes) != 0 {
			t.Errorf("since its own revision: %v, %v", changes, reaches)
		}
	})
}
