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

// MakeLists takes all permits to encode lists, until done is called.
func (s *Server) MakeLists() (done func()) {
	for range cap(s.lists.encoding) {
		s.lists.encoding <- struct{}{}
	}
	return func() {
		for range cap(s.lists.encoding) {
			s.lists.encoding.release()
		}
	}
}

// EncodeList makes a list, and gives its length and what compresses it.
func EncodeList(view domain.View) (length int, compress func() (length int)) {
	list := encodeList(view, domain.Filter{}, 0)
	return len(list.body), func() int { return len(list.compress().body) }
}

// LimitedWrite is how much is written with one slot.
const LimitedWrite = limitedWrite

// NewWriteLimiter gives the write of a limiter.
func NewWriteLimiter() func(io.Writer, []byte) error { return newWriteLimiter().write }
