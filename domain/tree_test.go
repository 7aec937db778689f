package domain

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// weigh checks order, counts and balance below t, and gives its nodes.
func (t *tree) weigh(fail func(format string, args ...any)) []*CacheNode {
	if t == nil {
		return nil
	}
	left, right := t.left.weigh(fail), t.right.weigh(fail)
	nodes := slices.Concat(left, []*CacheNode{t.node}, right)
	if t.count != len(nodes) {
		fail("%q counts %d nodes and has %d", t.node.ID, t.count, len(nodes))
	}
	if len(left) > 0 && left[len(left)-1].ID >= t.node.ID || len(right) > 0 && right[0].ID <= t.node.ID {
		fail("%q is out of order", t.node.ID)
	}
	if l, r := len(left)+1, len(right)+1; l > balanceDelta*r || r > balanceDelta*l {
		fail("%q is out of balance: %d and %d", t.node.ID, len(left), len(right))
	}
	return nodes
}

func sortedNodes(m map[string]*CacheNode) []*CacheNode {
	var nodes []*CacheNode
	for _, id := range slices.Sorted(maps.Keys(m)) {
		nodes = append(nodes, m[id])
	}
	return nodes
}

func TestTreeIsAMapInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			tree  *tree
			nodes []*CacheNode
		}
		var (
			current  *tree
			model    = map[string]*CacheNode{}
			versions []version
		)
		span := rapid.SampledFrom([]int{3, 20, 300}).Draw(t, "span of ids")
		puts := rapid.SampledFrom([]int{3, 5, 9}).Draw(t, "puts in ten")
		ids := rapid.Map(rapid.IntRange(0, span), func(i int) string { return fmt.Sprintf("%04d", i) })
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			id := ids.Draw(t, "id")
			if current.get(id) != model[id] {
				t.Fatalf("get %q: %v, want %v", id, current.get(id), model[id])
			}
			_, known := model[id]
			switch put := rapid.IntRange(0, 9).Draw(t, "kind") < puts; {
			case known && !put:
				current = current.remove(id)
				delete(model, id)
			case known && rapid.Bool().Draw(t, "replace"):
				model[id] = &CacheNode{ID: id}
				current = current.replace(model[id])
			default:
				model[id] = &CacheNode{ID: id}
				current = current.put(model[id])
			}
			nodes := current.weigh(t.Fatalf)
			if !slices.Equal(nodes, sortedNodes(model)) || current.size() != len(model) {
				t.Fatalf("%d nodes, want %d, or others", len(nodes), len(model))
			}
			versions = append(versions, version{current, nodes})
		}
		for i, v := range versions {
			if !slices.Equal(v.tree.weigh(t.Fatalf), v.nodes) {
				t.Fatalf("version %d has changed", i)
			}
		}
	})
}

func TestTreeStaysInBalance(t *testing.T) {
	const count = 20_000
	id := func(i int) string { return fmt.Sprintf("%06d", i) }
	orders := map[string]func(i int) int{
		"ascending":      func(i int) int { return i },
		"descending":     func(i int) int { return count - 1 - i },
		"from both ends": func(i int) int { return i/2*(1-i%2) + (count-1-i/2)*(i%2) },
		"scattered":      func(i int) int { return i * 7919 % count },
	}
	for putName, putOrder := range orders {
		for removeName, removeOrder := range orders {
			t.Run("put "+putName+", removed "+removeName, func(t *testing.T) {
				var current *tree
				for i := range count {
					current = current.put(&CacheNode{ID: id(putOrder(i))})
				}
				for left := count; left > 0; left-- {
					if left == count || left == count/2 || left == 7 {
						if got := len(current.weigh(t.Fatalf)); got != left {
							t.Fatalf("%d nodes, want %d", got, left)
						}
					}
					current = current.remove(id(removeOrder(count - left)))
				}
				if current != nil {
					t.Fatalf("%d nodes are left", current.size())
				}
			})
		}
	}
}

func TestTreeAscendsNoFurtherThanItIsAsked(t *testing.T) {
	var current *tree
	for i := range 100 {
		current = current.put(&CacheNode{ID: fmt.Sprintf("%02d", i)})
	}
	visited := 0
	current.ascend(func(n *CacheNode) bool {
		visited++
		return n.ID < "41"
	})
	if visited != 42 {
		t.Errorf("%d nodes were visited", visited)
	}
}
