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

// encodedList is the nodes that a filter lets through, at one revision, ready to be sent.
// It is immutable. It holds header values too, because a list is requested far more often
// than it changes.
type encodedList struct {
	revision domain.Revision
	body     []byte

	etag, revisionHeader, length []string
	coding                       []string // nil: body is not compressed
}

// matching iterates over the nodes of view that filter lets through, in their order.
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

// How many filtered lists are kept, and how many bytes of them; the latest is kept however
// long it is. The whole list is always kept.
const (
	keptLists = 64
	keptBytes = 32 << 20
)

// listCache encodes the list of a revision once for all requests with the same filter. Safe
// for concurrent use.
type listCache struct {
	local ports.Local
	kept  int // bytes of filtered lists, at most
	whole *sharedList

	// encoding limits who encodes or compresses a list, or encodes a part of a snapshot for
	// a stream or a backup. That keeps a processor busy for as long as the registry is
	// large, and half of the processors are for raft.
	encoding semaphore

	mu       sync.Mutex
	filtered map[string]*sharedList // by filterKey
}

func newListCache(local ports.Local) *listCache {
	return &listCache{
		local: local, kept: keptBytes, whole: newSharedList(),
		encoding: make(semaphore, (runtime.GOMAXPROCS(0)+1)/2),
		filtered: map[string]*sharedList{},
	}
}

// get returns the list at view's revision or a later one. A later one is as good an answer:
// it was committed before the client gets the answer. get waits for a permit to encode
// until ctx ends.
func (c *listCache) get(ctx context.Context, view domain.View, filter domain.Filter) (*encodedList, error) {
	shared := c.sharedFor(filter)
	return c.once(ctx, shared,
		func() *encodedList { return shared.encoded(view) },
		func() *encodedList { return c.encode(shared, view, filter) })
}

// once returns what find finds, or else what build builds. For one shared list, build runs
// in one goroutine at a time.
func (c *listCache) once(ctx context.Context, shared *sharedList, find, build func() *encodedList) (*encodedList, error) {
	if list := find(); list != nil {
		return list, nil
	}
	if err := shared.building.acquire(ctx); err != nil {
		return nil, err
	}
	defer shared.building.release()
	if list := find(); list != nil {
		return list, nil
	}
	if err := c.encoding.acquire(ctx); err != nil {
		return nil, err
	}
	defer c.encoding.release()
	return build(), nil
}

// encode encodes the list, unless shared has it.
func (c *listCache) encode(shared *sharedList, view domain.View, filter domain.Filter) *encodedList {
	if list := shared.encoded(view); list != nil {
		return list
	}
	sizeHint := 64
	if list := shared.latest.Load(); list != nil {
		sizeHint = len(list.body) + 4<<10
	}
	// While writes come in, the requests that wait here have views of many revisions. One
	// encoding of the latest state serves them all.
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

// trim drops filtered lists, in any order but never latest, until the limits hold. A
// dropped list may still be in use.
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
	compressed atomic.Pointer[encodedList] // the latest that was requested with gzip
	building   semaphore                   // one permit, acquired before listCache.encoding
}

func newSharedList() *sharedList { return &sharedList{building: make(semaphore, 1)} }

func (s *sharedList) size() int {
	size := 0
	for _, list := range []*encodedList{s.latest.Load(), s.compressed.Load()} {
		if list != nil {
			size += len(list.body)
		}
	}
	return size
}

// encoded returns the list at view's revision or a later one; nil if there is none yet.
func (s *sharedList) encoded(view domain.View) *encodedList {
	if list := s.latest.Load(); list != nil && list.revision >= view.Revision() {
		return list
	}
	return nil
}

// forGzip is encoded for a client that accepts gzip: a short list is not compressed.
func (s *sharedList) forGzip(view domain.View) *encodedList {
	if list := s.compressed.Load(); list != nil && list.revision >= view.Revision() {
		return list
	}
	if list := s.encoded(view); list != nil && len(list.body) < compressFrom {
		return list
	}
	return nil
}

// semaphore is a counting semaphore: each element of the channel is a permit in use.
type semaphore chan struct{}

// acquire waits for a permit, or returns the error of ctx.
func (s semaphore) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s semaphore) release() { <-s }

// releaseWhile releases a permit that the caller holds while do runs, and acquires it again.
// Before that it yields the processor, above all to what has come from the network.
func (s semaphore) releaseWhile(do func() error) error {
	runtime.Gosched()
	s.release()
	defer func() { s <- struct{}{} }() // takes no ctx: holders of permits work, and do not wait
	return do()
}
