package httpapi

import (
	"io"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// KeptLists is how many filtered lists are kept, at most.
const KeptLists = keptLists

// Keep bounds how many bytes of filtered lists are kept.
func (s *Server) Keep(bytes int) { s.lists.kept = bytes }

// Kept is how many filtered lists are kept now, and how many bytes of them.
func (s *Server) Kept() (lists, bytes int) {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	for _, list := range s.lists.filtered {
		bytes += list.size()
	}
	return len(s.lists.filtered), bytes
}

// Compressed is the whole list as it was compressed last.
func (s *Server) Compressed() any { return s.lists.whole.compressed.Load() }

// MakeLists keeps all others from making lists until what it gives is called.
func (s *Server) MakeLists() (done func()) {
	for range cap(s.lists.making) {
		s.lists.making <- struct{}{}
	}
	return func() {
		for range cap(s.lists.making) {
			s.lists.making.give()
		}
	}
}

// EncodeList makes a list, and gives its length and what compresses it.
func EncodeList(view domain.View) (length int, compress func() (length int)) {
	list := encodeList(view, domain.Filter{}, 0)
	return len(list.body), func() int { return len(list.compress().body) }
}

// TurnBytes is how much is written in a turn.
const TurnBytes = turnBytes

// NewTurns gives what writes a body in turns.
func NewTurns() func(io.Writer, []byte) error { return newTurns().write }
