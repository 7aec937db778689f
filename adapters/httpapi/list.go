package httpapi

import (
	"iter"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// encodedList is the nodes that a filter lets through, at one revision, ready to
// be sent. It never changes. The header values are kept with it because a list is
// asked for far more often than it changes.
type encodedList struct {
	revision domain.Revision
	body     []byte

	etag, revisionHeader, length []string
	coding                       []string // nil: body is what it is
}

// matching gives the nodes of view that filter lets through, in their order.
func matching(view domain.View, filter domain.Filter) iter.Seq[*domain.CacheNode] {
	if filter.All() {
		return view.Nodes()
	}
	return func(yield func(*domain.CacheNode) bool) {
		for n := range view.Nodes() {
			if filter.Matches(n) && !yield(n) {
				return
			}
		}
	}
}

func encodeList(view domain.View, filter domain.Filter, sizeHint int) *encodedList {
	body := make([]byte, 0, sizeHint)
	body = append(body, '{')
	for n := range matching(view, filter) {
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = appendMember(body, n)
	}
	body = append(body, '}')
	return &encodedList{
		revision:       view.Revision(),
		body:           body,
		etag:           []string{etag(view.Revision())},
		revisionHeader: []string{formatRevision(view.Revision())},
		length:         []string{strconv.Itoa(len(body))},
	}
}

// How many filtered lists are kept, and how many bytes of them. The whole list
// is always kept.
const (
	keptLists = 64
	keptBytes = 32 << 20
)

// listCache encodes the list of a revision once for all who ask for it with one
// filter. Safe for concurrent use.
type listCache struct {
	local ports.Local
	kept  int // bytes of filtered lists, at most
	whole sharedList

	compressing sync.Mutex // held by the one who compresses

	mu       sync.Mutex
	filtered map[string]*sharedList // by filterKey
}

// get gives the list at view's revision or a later one. A later one is as good
// an answer: it was committed before the asker is answered.
func (c *listCache) get(view domain.View, filter domain.Filter) *encodedList {
	list := c.sharedFor(filter).get(c.local, view, filter)
	if !filter.All() {
		c.trim()
	}
	return list
}

func (c *listCache) sharedFor(filter domain.Filter) *sharedList {
	if filter.All() {
		return &c.whole
	}
	key := filterKey(filter)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filtered == nil {
		c.filtered = map[string]*sharedList{}
	}
	if c.filtered[key] == nil {
		c.filtered[key] = &sharedList{}
	}
	return c.filtered[key]
}

// trim drops lists, whichever, until no more are kept than may be. Who is using
// one goes on.
func (c *listCache) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := 0
	for key, list := range c.filtered {
		bytes += list.size()
		if bytes > c.kept || len(c.filtered) > keptLists {
			bytes -= list.size()
			delete(c.filtered, key)
		}
	}
}

// sharedList is the latest list with one filter.
type sharedList struct {
	latest     atomic.Pointer[encodedList]
	compressed atomic.Pointer[encodedList] // the latest that was asked for like that
	encoding   sync.Mutex                  // held by the one who encodes
}

func (s *sharedList) size() int {
	size := 0
	for _, list := range []*encodedList{s.latest.Load(), s.compressed.Load()} {
		if list != nil {
			size += len(list.body)
		}
	}
	return size
}

func (s *sharedList) get(local ports.Local, view domain.View, filter domain.Filter) *encodedList {
	if list := s.latest.Load(); list != nil && list.revision >= view.Revision() {
		return list
	}
	s.encoding.Lock()
	defer s.encoding.Unlock()
	sizeHint := 64
	if list := s.latest.Load(); list != nil {
		if list.revision >= view.Revision() {
			return list
		}
		sizeHint = len(list.body) + 4<<10
	}
	// While writes come in, those who wait here have views of many revisions.
	// The latest state serves them all with one encoding.
	if state, _ := local.State(); state.View.Revision() > view.Revision() {
		view = state.View
	}
	list := encodeList(view, filter, sizeHint)
	s.latest.Store(list)
	return list
}
