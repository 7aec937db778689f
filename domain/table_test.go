package domain

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestTableIsAMapWhoseVersionsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			table table
			nodes []*CacheNode
		}
		var (
			// From there on, the next row may need a new leaf, a new page or a new root.
			given    = rapid.SampledFrom([]int{0, 30, fanOut, 2*fanOut - 1, rowsOfPage, rowsOfPage - 1}).Draw(t, "given")
			model    = map[string]*CacheNode{}
			versions []version
		)
		for i := range given {
			n := &CacheNode{ID: fmt.Sprintf("%05d", i)}
			model[n.ID] = n
		}
		current := indexOf(sortedNodes(model))
		ids := rapid.Map(rapid.IntRange(max(0, given-20), given+20), func(i int) string { return fmt.Sprintf("%05d", i) })
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			n := &CacheNode{ID: ids.Draw(t, "id")}
			if got := current.get(n.ID); got != model[n.ID] || current.table.get(n.ID) != got {
				t.Fatalf("get(%q) = %v, want %v", n.ID, got, model[n.ID])
			}
			switch known := model[n.ID] != nil; {
			case known && rapid.Bool().Draw(t, "remove"):
				current.remove(n.ID)
				delete(model, n.ID)
			case known:
				current.replace(n)
				model[n.ID] = n
			default:
				current.add(n)
				model[n.ID] = n
			}
			if err := current.audit(); err != nil {
				t.Fatal(err)
			}
			// Several changes may be between two views.
			if rapid.Bool().Draw(t, "view") {
				versions = append(versions, version{current.view(), sortedNodes(model)})
			}
		}
		for i, v := range versions {
			if !slices.Equal(v.table.list(), v.nodes) {
				t.Fatalf("version %d has changed", i)
			}
		}
	})
}

// A row that a view shows is copied once, and not for each change.
func TestChangesBetweenTwoViewsShareTheirCopies(t *testing.T) {
	x := indexOf([]*CacheNode{{ID: "a"}, {ID: "b"}})
	shown := x.view()
	x.replace(&CacheNode{ID: "a"})
	page, leaf := x.rows[0], x.rows[0].leaves[0]
	if page == shown.rows[0] || leaf == shown.rows[0].leaves[0] {
		t.Fatal("a page that the view shares was changed")
	}
	x.replace(&CacheNode{ID: "b"})
	x.replace(&CacheNode{ID: "a"})
	if x.rows[0] != page || page.leaves[0] != leaf {
		t.Error("a page that no view shares was copied again")
	}
}

func sortedNodes(m map[string]*CacheNode) []*CacheNode {
	var nodes []*CacheNode
	for _, id := range slices.Sorted(maps.Keys(m)) {
		nodes = append(nodes, m[id])
	}
	return nodes
}
