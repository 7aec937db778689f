package httpapi

import (
	"io"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// KeptLists is the maximum number of cached filtered lists.
const KeptLists = keptLists

// Keep sets the maximum size of all cached filtered lists, in bytes.
func (s *Server) Keep(bytes int) { s.lists.kept = bytes }

// Kept returns the number of cached filtered lists, and their size in bytes.
func (s *Server) Kept() (lists, bytes int) {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	for _, list := range s.lists.filtered {
		bytes += list.size()
	}
	return len(s.lists.filtered), bytes
}

// Compressed returns the cached compressed list of all nodes.
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

// EncodeList encodes a list. It returns its length, and a function that compresses it and
// returns the length of that.
func EncodeList(view domain.View) (length int, compress func() (length int)) {
	list := encodeList(view, domain.Filter{}, 0)
	return len(list.body), func() int { return len(list.compress().body) }
}

// LimitedWrite is the number of bytes that are written with one slot of the limiter.
const LimitedWrite = limitedWrite

// NewWriteLimiter returns the write method of a new limiter.
func NewWriteLimiter() func(io.Writer, []byte) error { return newWriteLimiter().write }
