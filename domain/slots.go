package domain

import "container/heap"

// slots hands out the lowest free place in a pool, in time that grows with the
// logarithm of the pool. The places under next are taken, or in free.
type slots struct {
	next int
	free intHeap
}

func (s *slots) take() int {
	if len(s.free) > 0 {
		return heap.Pop(&s.free).(int)
	}
	s.next++
	return s.next - 1
}

func (s *slots) release(slot int) { heap.Push(&s.free, slot) }

func (s *slots) unused() bool { return len(s.free) == s.next }

// restoreSlots rebuilds the places from those in use; false when two nodes
// claim the same one.
func restoreSlots(used []int) (*slots, bool) {
	s := &slots{}
	for _, slot := range used {
		s.next = max(s.next, slot+1)
	}
	if s.next > MaxNodes {
		return nil, false
	}
	taken := make([]bool, s.next)
	for _, slot := range used {
		if slot < 0 || taken[slot] {
			return nil, false
		}
		taken[slot] = true
	}
	for slot, isTaken := range taken {
		if !isTaken {
			s.free = append(s.free, slot) // in ascending order: a heap already
		}
	}
	return s, true
}

type intHeap []int

func (h intHeap) Len() int           { return len(h) }
func (h intHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h intHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *intHeap) Push(x any)        { *h = append(*h, x.(int)) }
func (h *intHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
