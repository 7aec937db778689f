package httpapi

import (
	"io"
	"net/http"
	"strconv"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// answer is a whole response but a stream. Header values that are shared or
// kept somewhere are slices, so that setting them costs nothing.
type answer struct {
	status      int      // zero: 200
	contentType []string // nil: application/json
	body        []byte
	// content writes a body that is too long to be held; nil: body is all.
	content     func(io.Writer) error
	disposition string
	length      []string // the length of body, where it is at hand
	coding      []string // how body is compressed; nil: it is not
	turns       turns    // in which a body that may be long is written; nil: at once
	vary        []string // the header of the request that makes a difference; nil: none
	etag        []string
	revision    []string // the state of the registry that was seen
	// leaderContact is how many milliseconds ago this instance heard from a
	// leader; empty where that does not matter.
	leaderContact string
	location      string
	allow         string
	hangUp        bool // the connection is of no further use
}

func (a *answer) see(revision domain.Revision) {
	a.revision = []string{formatRevision(revision)}
}

var (
	jsonType   = []string{"application/json"}
	noCache    = []string{"no-cache"}
	retryAfter = []string{"1"}
	closing    = []string{"close"}
)

// The names are spelt as net/http keeps them: it takes them as they are.
const (
	revisionHeader     = "Nodesmetadata-Revision"
	contactHeader      = "Nodesmetadata-Leader-Contact"
	etagHeader         = "Etag"
	contentTypeHeader  = "Content-Type"
	cacheControlHeader = "Cache-Control"
)

// write sends a, but for its content. On a HEAD net/http drops the body.
func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	// A cache may keep an answer, but must ask whether it still holds.
	h[cacheControlHeader] = noCache
	if a.revision != nil {
		h[revisionHeader] = a.revision
	}
	if a.etag != nil {
		h[etagHeader] = a.etag
	}
	if a.leaderContact != "" {
		h[contactHeader] = []string{a.leaderContact}
	}
	if a.disposition != "" {
		h.Set("Content-Disposition", a.disposition)
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.allow != "" {
		h.Set("Allow", a.allow)
	}
	if a.hangUp {
		h["Connection"] = closing
	}
	if a.status == http.StatusServiceUnavailable {
		h["Retry-After"] = retryAfter
	}
	if a.vary != nil {
		h["Vary"] = a.vary
	}
	if a.status == http.StatusNotModified {
		w.WriteHeader(a.status)
		return
	}
	if a.contentType == nil {
		a.contentType = jsonType
	}
	h[contentTypeHeader] = a.contentType
	if a.coding != nil {
		h["Content-Encoding"] = a.coding
	}
	if a.content != nil {
		return // its length is not known
	}
	if a.length == nil {
		a.length = []string{strconv.Itoa(len(a.body))}
	}
	h["Content-Length"] = a.length
	if a.status != 0 {
		w.WriteHeader(a.status)
	}
	// An error here says that the asker has gone; there is nobody to tell.
	if a.turns == nil {
		_, _ = w.Write(a.body)
		return
	}
	_ = a.turns.write(w, a.body)
}
