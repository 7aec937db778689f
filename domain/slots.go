package domain

import (
	"maps"
	"math/bits"
)

// slots is the set of slots that are taken in a pool. In the zero value none is.
type slots struct {
	// words is a bitmap: word i has slots 64*i to 64*i+63, with a bit set for each that
	// is taken. It is a map without empty words, because a backup may have one node with
	// a very high slot in each of many pools.
	words map[int]uint64
	// lowest is the first word that may have a free slot in it.
	lowest int
}

// take takes the lowest free slot. It skips a full word only once, until a slot
// before that word is released.
func (s *slots) take() int {
	for s.words[s.lowest] == ^uint64(0) {
		s.lowest++
	}
	slot := s.lowest*64 + bits.TrailingZeros64(^s.words[s.lowest])
	s.claim(slot)
	return slot
}

// claim takes the given slot; false if it is taken already or out of range.
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
	return true
}

// release frees a slot, which must be taken.
func (s *slots) release(slot int) {
	word := slot / 64
	if s.words[word] &^= 1 << (slot % 64); s.words[word] == 0 {
		delete(s.words, word)
	}
	s.lowest = min(s.lowest, word)
}

func (s *slots) clone() *slots {
	return &slots{words: maps.Clone(s.words), lowest: s.lowest}
}

func (s *slots) unused() bool { return len(s.words) == 0 }
