package domain

import (
	"fmt"
	"testing"
)

// Pools and addresses come and go for years: what is gone must cost nothing.
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
	if len(r.pools) != 0 || len(r.byAddress) != 0 || r.bytes != 0 || r.nodes != nil {
		t.Errorf("%d pools, %d addresses, %d bytes, %d nodes", len(r.pools), len(r.byAddress), r.bytes, r.nodes.size())
	}
}

func TestSlotsTakeTheLowestFree(t *testing.T) {
	var s slots
	for want := range 5 {
		if got := s.take(); got != want {
			t.Fatalf("took %d, not %d", got, want)
		}
	}
	for _, slot := range []int{3, 1, 4, 0} {
		s.release(slot)
	}
	for _, want := range []int{0, 1, 3, 4, 5} {
		if got := s.take(); got != want {
			t.Fatalf("took %d, not %d", got, want)
		}
	}
	if s.unused() {
		t.Error("all is taken, and it is unused")
	}
}
