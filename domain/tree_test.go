package domain

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// weigh checks the order, the sizes and the balance of t, and returns its entries.
func (t *tree) weigh(fail func(format string, args ...any)) []entry {
	if t == nil {
		return nil
	}
	left, right := t.left.weigh(fail), t.right.weigh(fail)
	entries := slices.Concat(left, []entry{t.entry}, right)
	if t.count != len(entries) {
		fail("%q counts %d entries and has %d", t.id, t.count, len(entries))
	}
	if len(left) > 0 && left[len(left)-1].id >= t.id || len(right) > 0 && right[0].id <= t.id {
		fail("%q is out of order", t.id)
	}
	if l, r := len(left)+1, len(right)+1; l > balanceDelta*r || r > balanceDelta*l {
		fail("%q is out of balance: %d and %d", t.id, len(left), len(right))
	}
	return entries
}

func sortedEntries(m map[string]int) []entry {
	var entries []entry
	for _, id := range slices.Sorted(maps.Keys(m)) {
		entries = append(entries, entry{id, m[id]})
	}
	return entries
}

func TestTreeIsAMapInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			tree    *tree
			entries []entry
		}
		var (
			current  *tree
			model    = map[string]int{}
			versions []version
		)
		span := rapid.SampledFrom([]int{3, 20, 300}).Draw(t, "span of ids")
		puts := rapid.SampledFrom([]int{3, 5, 9}).Draw(t, "puts in ten")
		ids := rapid.Map(rapid.IntRange(0, span), func(i int) string { return fmt.Sprintf("%04d", i) })
		for step := range rapid.IntRange(0, 300).Draw(t, "steps") {
			id := ids.Draw(t, "id")
			row, known := model[id]
			if got, found := current.get(id); got != row || found != known {
				t.Fatalf("get(%q) = %d, %v, want %d, %v", id, got, found, row, known)
			}
			switch put := rapid.IntRange(0, 9).Draw(t, "kind") < puts; {
			case known && put:
				continue
			case known:
				current = current.remove(id)
				delete(model, id)
			default:
				model[id] = step
				current = current.put(entry{id, step})
			}
			entries := current.weigh(t.Fatalf)
			if !slices.Equal(entries, sortedEntries(model)) || current.size() != len(model) {
				t.Fatalf("entries = %d, want %d, or they differ", len(entries), len(model))
			}
			versions = append(versions, version{current, entries})
		}
		for i, v := range versions {
			if !slices.Equal(v.tree.weigh(t.Fatalf), v.entries) {
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
					current = current.put(entry{id(putOrder(i)), i})
				}
				for left := count; left > 0; left-- {
					if left == count || left == count/2 || left == 7 {
						if got := len(current.weigh(t.Fatalf)); got != left {
							t.Fatalf("entries = %d, want %d", got, left)
						}
					}
					current = current.remove(id(removeOrder(count - left)))
				}
				if current != nil {
					t.Fatalf("entries left = %d, want none", current.size())
				}
			})
		}
	}
}

func TestTreeAscendStopsWhenTold(t *testing.T) {
	var current *tree
	for i := range 100 {
		current = current.put(entry{fmt.Sprintf("%02d", i), i})
	}
	visited := 0
	current.ascend(func(row int) bool {
		visited++
		return row < 41
	})
	if visited != 42 {
		t.Errorf("rows visited = %d, want 42", visited)
	}
}
