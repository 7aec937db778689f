package domain

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Pools and addresses come and go for years, so removed ones must cost nothing.
func TestAnEmptiedRegistryKeepsNothing(t *testing.T) {
	r := NewRegistry()
	for i := range 100 {
		id := fmt.Sprintf("n%d", i)
		for _, cmd := range []Command{
			Register{Node: CacheNode{ID: id, Address: id + ":1", Pool: "first-of-" + id}},
			Register{Node: CacheNode{ID: id, Address: id + ":2", Pool: "second-of-" + id}},
			Deregister{ID: id},
		} {
			if _, err := r.Apply(cmd); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(r.pools) != 0 || len(r.owners) != 0 || r.bytes != 0 || r.nodes.size() != 0 || len(r.nodes.at) != 0 {
		t.Errorf("emptied registry keeps %d pools, %d addresses, %d bytes, %d nodes, want none", len(r.pools), len(r.owners), r.bytes, r.nodes.size())
	}
}

// A refused batch must not even leave an empty pool.
func TestARefusedBatchLeavesNoTrace(t *testing.T) {
	at := func(id, address, pool string) Command {
		return Register{Node: CacheNode{ID: id, Address: address, Pool: pool}}
	}
	given := []Command{at("a", "h:1", "p"), at("b", "h:2", "p"), at("c", "h:3", "q")}
	refused := Deregister{ID: "x"}
	tests := map[string][]Command{
		"a node in a pool of its own":            {at("d", "h:4", "r"), refused},
		"a pool that was left empty":             {at("c", "h:3", "p"), refused},
		"a pool that was emptied and filled":     {Deregister{ID: "c"}, at("d", "h:4", "q"), refused},
		"a pool that came and went":              {at("a", "h:1", "r"), at("a", "h:1", "q"), refused},
		"all nodes":                              {Deregister{ID: "a"}, Deregister{ID: "b"}, Deregister{ID: "c"}, refused},
		"all nodes, removed and added":           {Deregister{ID: "a"}, Deregister{ID: "b"}, Deregister{ID: "c"}, at("c", "h:1", "p"), at("b", "h:3", "q"), at("a", "h:2", "r"), refused},
		"an address that went around":            {at("a", "h:9", "p"), at("b", "h:1", "p"), at("c", "h:2", "q"), at("a", "h:3", "p"), refused},
		"an address that was spelt in many ways": {at("a", "H:1", "p"), at("a", "h.:1", "p"), at("a", "H.:1", "p"), refused},
		"a node that grew and shrank":            {at("a", "long-name:1", "p"), at("a", "s:1", "longpool"), refused},
		"a node that is as it was":               {at("a", "h:1", "p"), refused},
	}
	for name, commands := range tests {
		t.Run(name, func(t *testing.T) {
			r := NewRegistry()
			for _, cmd := range given {
				if _, err := r.Apply(cmd); err != nil {
					t.Fatal(err)
				}
			}
			before, nodes, addresses, pools := *r, r.nodes.list(), maps.Clone(r.owners), slices.Sorted(maps.Keys(r.pools))
			if _, err := r.Apply(Batch{Commands: commands}); !errors.Is(err, ErrNoSuchNode) {
				t.Fatal(err)
			}
			if err := r.Audit(); err != nil {
				t.Error(err)
			}
			if !slices.Equal(r.nodes.list(), nodes) || r.revision != before.revision || r.bytes != before.bytes {
				t.Errorf("registry = %d nodes at revision %d with %d bytes, want %d at %d with %d", r.nodes.size(), r.revision, r.bytes, len(nodes), before.revision, before.bytes)
			}
			if !maps.Equal(r.owners, addresses) {
				t.Errorf("owners of addresses = %v, want %v", r.owners, addresses)
			}
			if got := slices.Sorted(maps.Keys(r.pools)); !slices.Equal(got, pools) {
				t.Errorf("pools = %v, want %v", got, pools)
			}
			if len(r.history.changes) != len(before.history.changes) || r.history.bytes != before.history.bytes {
				t.Errorf("history = %d changes with %d bytes, want %d with %d", len(r.history.changes), r.history.bytes, len(before.history.changes), before.history.bytes)
			}
			if err := r.Audit(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A backup of few nodes must not cost much memory, although one may have the last slot of
// its pool.
func TestAHighSlotTakesNoMemoryForLowerSlots(t *testing.T) {
	s := &slots{}
	if !s.claim(MaxNodes-1) || !s.clone().claim(MaxNodes-65) {
		t.Fatal("claim of a free slot = false, want true")
	}
	if len(s.words) != 1 {
		t.Errorf("words for one slot = %d, want 1", len(s.words))
	}
	s.release(MaxNodes - 1)
	if len(s.words) != 0 {
		t.Errorf("words without slots = %d, want none", len(s.words))
	}
	if got := s.take(); got != 0 {
		t.Errorf("first slot taken = %d, want 0", got)
	}
}

func TestSlotsTakeTheLowestFree(t *testing.T) {
	var s slots
	for want := range 5 {
		if got := s.take(); got != want {
			t.Fatalf("slot taken = %d, want %d", got, want)
		}
	}
	for _, slot := range []int{3, 1, 4, 0} {
		s.release(slot)
	}
	for _, want := range []int{0, 1, 3, 4, 5} {
		if got := s.take(); got != want {
			t.Fatalf("slot taken = %d, want %d", got, want)
		}
	}
	if s.unused() {
		t.Error("unused = true with all slots taken, want false")
	}
}

// Slots are a set of numbers, also across the borders of their words.
func TestSlotsAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, model := &slots{}, map[int]bool{}
		lowest := func() int {
			slot := 0
			for model[slot] {
				slot++
			}
			return slot
		}
		span := rapid.SampledFrom([]int{3, 64, 65, 200}).Draw(t, "span")
		for range rapid.SampledFrom([]int{0, 63, 64, 65, 128, 150}).Draw(t, "taken at first") {
			model[s.take()] = true
		}
		if lowest() != len(model) {
			t.Fatalf("slots taken = %v, want the lowest", model)
		}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			slot := rapid.IntRange(0, span).Draw(t, "slot")
			switch kind := rapid.IntRange(0, 2).Draw(t, "kind"); {
			case kind == 0:
				want := lowest()
				if got := s.take(); got != want {
					t.Fatalf("slot taken = %d, want %d", got, want)
				}
				model[want] = true
			case model[slot] && kind == 1:
				s.release(slot)
				delete(model, slot)
			default:
				if got := s.claim(slot); got == model[slot] {
					t.Fatalf("claim(%d) = %v, want %v", slot, got, !model[slot])
				}
				model[slot] = true
			}
			if got, want := s.places(), slices.Sorted(maps.Keys(model)); !slices.Equal(got, want) {
				t.Fatalf("slots taken = %v, want %v", got, want)
			}
			if err := s.audit(); err != nil {
				t.Fatal(err)
			}
			if s.unused() != (len(model) == 0) {
				t.Fatalf("unused of %v = %v, want %v", model, s.unused(), len(model) == 0)
			}
		}
	})
}

func TestRestoreSlots(t *testing.T) {
	tests := map[string]struct {
		used []int
		next int // the place taken next
		ok   bool
	}{
		"nothing is in use":                   {nil, 0, true},
		"the first places are in use":         {[]int{0, 1, 2}, 3, true},
		"the order does not count":            {[]int{3, 0, 2}, 1, true},
		"the first place is free":             {[]int{1, 2}, 0, true},
		"a whole word is in use":              {counted(64), 64, true},
		"all but the last of a word":          {counted(63), 63, true},
		"two words and one place":             {counted(129), 129, true},
		"the last place there can be":         {[]int{MaxNodes - 1}, 0, true},
		"a place beyond the last":             {[]int{MaxNodes}, 0, false},
		"a place far beyond the last":         {[]int{1 << 60}, 0, false},
		"a place below the first":             {[]int{-1}, 0, false},
		"one place for two":                   {[]int{5, 5}, 0, false},
		"one place for two, others between":   {[]int{64, 0, 63, 64}, 0, false},
		"a place like another in the next":    {[]int{1, 65, 129}, 0, true},
		"a place at the beginning of a word":  {[]int{64}, 0, true},
		"every place there can be but a last": {counted(MaxNodes - 1), MaxNodes - 1, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, ok := &slots{}, true
			for _, slot := range test.used {
				ok = ok && s.claim(slot)
			}
			if ok != test.ok {
				t.Fatalf("restored = %v, want %v", ok, test.ok)
			}
			if !ok {
				return
			}
			if got := s.take(); got != test.next {
				t.Errorf("next slot = %d, want %d", got, test.next)
			}
			if err := s.audit(); err != nil {
				t.Error(err)
			}
		})
	}
}

// counted returns the first n places.
func counted(n int) []int {
	places := make([]int, n)
	for i := range places {
		places[i] = i
	}
	return places
}
