package domain

import (
	"fmt"
	"maps"
	"math/bits"
	"reflect"
	"slices"
)

// Audit reports how the indexes of r, which no view shows, differ from its nodes and its
// history. It is exported only to the tests in package domain_test.
func (r *Registry) Audit() error {
	addresses, places, size := map[string]string{}, map[string][]int{}, 0
	r.nodes.ascend(func(n *CacheNode) bool {
		addresses[canonicalAddress(n.Address)] = n.ID
		places[n.Pool] = append(places[n.Pool], n.Slot)
		size += n.size()
		return true
	})
	if !maps.Equal(r.owners, addresses) {
		return fmt.Errorf("owners of addresses = %v, want %v", r.owners, addresses)
	}
	if r.bytes != size {
		return fmt.Errorf("counted bytes = %d, want %d", r.bytes, size)
	}
	if err := r.nodes.audit(); err != nil {
		return err
	}
	held := map[string][]int{}
	for name, pool := range r.pools {
		held[name] = pool.places()
		if err := pool.audit(); err != nil {
			return fmt.Errorf("pool %q: %w", name, err)
		}
	}
	for _, slots := range places {
		slices.Sort(slots)
	}
	if !reflect.DeepEqual(held, places) {
		return fmt.Errorf("slots = %v, want %v", held, places)
	}
	past := 0
	for i := range r.history.changes {
		past += r.history.changes[i].size()
	}
	if r.history.bytes != past {
		return fmt.Errorf("counted bytes of history = %d, want %d", r.history.bytes, past)
	}
	return nil
}

// audit reports which rows of x are not those of its nodes, with one row for each node.
func (x *index) audit() error {
	if len(x.at) != x.size() {
		return fmt.Errorf("indexed rows = %d, nodes = %d", len(x.at), x.size())
	}
	taken := map[int]string{}
	for id, row := range x.at {
		if n := x.get(id); n == nil || n.ID != id || x.table.get(id) != n || taken[row] != "" {
			return fmt.Errorf("node %q is not in row %d: %v, %q", id, row, n, taken[row])
		}
		taken[row] = id
	}
	for _, row := range x.free {
		if n := x.rows.get(row); n != nil || taken[row] != "" {
			return fmt.Errorf("free row %d holds %v of %q", row, n, taken[row])
		}
		taken[row] = "nobody"
	}
	return nil
}

// places returns the taken slots in ascending order.
func (s *slots) places() []int {
	var places []int
	for _, i := range slices.Sorted(maps.Keys(s.words)) {
		for word := s.words[i]; word != 0; word &= word - 1 {
			places = append(places, i*64+bits.TrailingZeros64(word))
		}
	}
	return places
}

func (s *slots) audit() error {
	for i := range s.lowest {
		if s.words[i] != ^uint64(0) {
			return fmt.Errorf("word %d has a free place below the lowest word %d", i, s.lowest)
		}
	}
	for i, word := range s.words {
		if word == 0 {
			return fmt.Errorf("word %d is empty, but kept", i)
		}
	}
	return nil
}
