package httpapi

// The bounds of what is kept of filtered lists.
const (
	KeptLists = keptLists
	KeptBytes = keptBytes
)

// Kept is how many filtered lists are kept now, and how many bytes of them.
func (s *Server) Kept() (lists, bytes int) {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	for _, list := range s.lists.filtered {
		bytes += list.size()
	}
	return len(s.lists.filtered), bytes
}
