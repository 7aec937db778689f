package httpapi

import (
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// encodedList is the whole registry at one revision, ready to be sent. It never
// changes. The header values are kept with it because a list is asked for far
// more often than it changes.
type encodedList struct {
	revision domain.Revision
	body     []byte

	etag, revisionHeader, length []string
}

func encodeList(view domain.View, sizeHint int) *encodedList {
	body := make([]byte, 0, sizeHint)
	body = append(body, '{')
	for n := range view.Nodes() {
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

// listCache encodes the list of a revision once for all who ask for it. Safe
// for concurrent use.
type listCache struct {
	local    ports.Local
	latest   atomic.Pointer[encodedList]
	encoding sync.Mutex // held by the one who encodes
}

// get gives the list at view's revision or a later one. A later one is as good
// an answer: it was committed before the asker is answered.
func (c *listCache) get(view domain.View) *encodedList {
	if list := c.latest.Load(); list != nil && list.revision >= view.Revision() {
		return list
	}
	c.encoding.Lock()
	defer c.encoding.Unlock()
	sizeHint := 64
	if list := c.latest.Load(); list != nil {
		if list.revision >= view.Revision() {
			return list
		}
		sizeHint = len(list.body) + 4<<10
	}
	// While writes come in, those who wait here have views of many revisions.
	// The latest state serves them all with one encoding.
	if state, _ := c.local.State(); state.View.Revision() > view.Revision() {
		view = state.View
	}
	list := encodeList(view, sizeHint)
	c.latest.Store(list)
	return list
}
