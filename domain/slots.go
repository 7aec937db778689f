package domain

import (
	"maps"
	"math/bits"
)

// slots hands out the lowest free place in a pool. The zero value has nothing taken.
type slots struct {
	// words has 64 places each, a bit that is set being a taken one. Where none is, there is
	// no word: a backup may put a node far behind the others, in each of many pools.
	words map[int]uint64
	// lowest is the first word that may have a free place in it.
	lowest int
	taken  int
}

// take hands out the lowest free place. It looks at each full word once, until a
// place before it is released.
func (s *slots) take() int {
	for s.words[s.lowest] == ^uint64(0) {
		s.lowest++
	}
	slot := s.lowest*64 + bits.TrailingZeros64(^s.words[s.lowest])
	s.claim(slot)
	return slot
}

// claim takes a place of the caller's choice; false when it is taken already, or
// none that a registry can have given.
func (s *slots) claim(slot int) bool {
	if slot < 0 || slot >= MaxNodes {
		return false
	}
	word, bit := slot/64, uint64(1)<<(slot%64)
	if s.words[word]&bit != 0 {
		return false
	}
	if s.words == nil {
		s.words = map[int]uint64{}
	}
	s.words[word] |= bit
	s.taken++
	return true
}

// release makes a taken place free.
func (s *slots) release(slot int) {
	word := slot / 64
	if s.words[word] &^= 1 << (slot % 64); s.words[word] == 0 {
		delete(s.words, word)
	}
	s.lowest = min(s.lowest, word)
	s.taken--
}

func (s *slots) clone() *slots {
	return &slots{words: maps.Clone(s.words), lowest: s.lowest, taken: s.taken}
}

func (s *slots) unused() bool { return s.taken == 0 }
