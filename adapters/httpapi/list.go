package httpapi

import (
	"context"
	"iter"
	"runtime"
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

// How many filtered lists are kept, and how many bytes of them if it is more than one.
// The whole list is always kept.
const (
	keptLists = 64
	keptBytes = 32 << 20
)

// listCache encodes the list of a revision once for all who ask for it with one
// filter. Safe for concurrent use.
type listCache struct {
	local ports.Local
	kept  int // bytes of filtered lists, at most
	whole *sharedList

	// making is held by those who encode or compress a list, whichever, or encode a part
	// of a snapshot for a stream, or of a backup. That takes a processor for as long as a large registry is
	// long, and half of them are for raft.
	making permits

	mu       sync.Mutex
	filtered map[string]*sharedList // by filterKey
}

func newListCache(local ports.Local) *listCache {
	return &listCache{
		local: local, kept: keptBytes, whole: newSharedList(),
		making:   make(permits, (runtime.GOMAXPROCS(0)+1)/2),
		filtered: map[string]*sharedList{},
	}
}

// get gives the list at view's revision or a later one. A later one is as good
// an answer: it was committed before the asker is answered. It waits for others who
// make lists, but no longer than ctx lasts.
func (c *listCache) get(ctx context.Context, view domain.View, filter domain.Filter) (*encodedList, error) {
	shared := c.sharedFor(filter)
	return c.once(ctx, shared,
		func() *encodedList { return shared.encoded(view) },
		func() *encodedList { return c.encode(shared, view, filter) })
}

// once gives what find finds, or else what build builds, which is for one at a time.
func (c *listCache) once(ctx context.Context, shared *sharedList, find, build func() *encodedList) (*encodedList, error) {
	if list := find(); list != nil {
		return list, nil
	}
	if err := shared.making.take(ctx); err != nil {
		return nil, err
	}
	defer shared.making.give()
	if list := find(); list != nil {
		return list, nil
	}
	if err := c.making.take(ctx); err != nil {
		return nil, err
	}
	defer c.making.give()
	return build(), nil
}

// encode encodes the list, unless it is.
func (c *listCache) encode(shared *sharedList, view domain.View, filter domain.Filter) *encodedList {
	if list := shared.encoded(view); list != nil {
		return list
	}
	sizeHint := 64
	if list := shared.latest.Load(); list != nil {
		sizeHint = len(list.body) + 4<<10
	}
	// While writes come in, those who wait here have views of many revisions.
	// The latest state serves them all with one encoding.
	if state, _ := c.local.State(); state.View.Revision() > view.Revision() {
		view = state.View
	}
	list := encodeList(view, filter, sizeHint)
	shared.latest.Store(list)
	c.trim(shared)
	return list
}

func (c *listCache) sharedFor(filter domain.Filter) *sharedList {
	if filter.All() {
		return c.whole
	}
	key := filterKey(filter)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filtered[key] == nil {
		c.filtered[key] = newSharedList()
	}
	return c.filtered[key]
}

// trim drops filtered lists, whichever but latest, until no more are kept than may be.
// Who is using one goes on.
func (c *listCache) trim(latest *sharedList) {
	if latest == c.whole {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := latest.size()
	for key, list := range c.filtered {
		if list == latest {
			continue
		}
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
	making     permits                     // one, taken before the cache's
}

func newSharedList() *sharedList { return &sharedList{making: make(permits, 1)} }

func (s *sharedList) size() int {
	size := 0
	for _, list := range []*encodedList{s.latest.Load(), s.compressed.Load()} {
		if list != nil {
			size += len(list.body)
		}
	}
	return size
}

// encoded gives the list at view's revision or a later one; nil if there is none yet.
func (s *sharedList) encoded(view domain.View) *encodedList {
	if list := s.latest.Load(); list != nil && list.revision >= view.Revision() {
		return list
	}
	return nil
}

// forGzip is encoded for who takes gzip.
func (s *sharedList) forGzip(view domain.View) *encodedList {
	if list := s.compressed.Load(); list != nil && list.revision >= view.Revision() {
		return list
	}
	if list := s.encoded(view); list != nil && len(list.body) < compressFrom {
		return list
	}
	return nil
}

// permits are what may be done at one time: each element is one that is taken.
type permits chan struct{}

// take waits for a permit until ctx ends, and gives its error then.
func (p permits) take(ctx context.Context) error {
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p permits) give() { <-p }

// lend gives a permit that the caller has for as long as do takes, and waits for it
// then. Before that, all that can run has a turn, above all what has come from the network.
func (p permits) lend(do func() error) error {
	runtime.Gosched()
	p.give()
	defer func() { p <- struct{}{} }() // whoever has it works, and waits for nobody
	return do()
}
