package domain

import (
	"math/bits"
	"slices"
)

// slots hands out the lowest free place in a pool. A taken place is a bit that
// is set. The zero value has nothing taken.
type slots struct {
	words []uint64
	// lowest is the first word that may have a free place in it.
	lowest int
	taken  int
}

// take hands out the lowest free place. It looks at each full word once, until a
// place before it is released.
func (s *slots) take() int {
	for s.lowest < len(s.words) && s.words[s.lowest] == ^uint64(0) {
		s.lowest++
	}
	word := uint64(0)
	if s.lowest < len(s.words) {
		word = s.words[s.lowest]
	}
	slot := s.lowest*64 + bits.TrailingZeros64(^word)
	s.claim(slot)
	return slot
}

// claim takes a place of the caller's choice; false when it is taken already, or
// none that a registry can have given.
func (s *slots) claim(slot int) bool {
	if slot < 0 || slot >= MaxNodes {
		return false
	}
	for slot/64 >= len(s.words) {
		s.words = append(s.words, 0)
	}
	word, bit := &s.words[slot/64], uint64(1)<<(slot%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	s.taken++
	return true
}

// release makes a taken place free.
func (s *slots) release(slot int) {
	s.words[slot/64] &^= 1 << (slot % 64)
	s.lowest = min(s.lowest, slot/64)
	s.taken--
}

func (s *slots) clone() *slots {
	return &slots{words: slices.Clone(s.words), lowest: s.lowest, taken: s.taken}
}

func (s *slots) unused() bool { return s.taken == 0 }
