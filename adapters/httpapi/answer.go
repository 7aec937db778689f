package httpapi

import (
	"io"
	"net/http"
	"strconv"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// answer is a response that is not a stream. Header values that are shared or kept somewhere
// are slices, so that setting them costs nothing.
type answer struct {
	status      int      // zero: 200
	contentType []string // nil: application/json
	body        []byte
	// content writes a body that is too long to hold in memory; nil: body is all.
	content     func(io.Writer) error
	disposition string
	length      []string     // the length of body, if it is at hand
	coding      []string     // how body is compressed; nil: it is not
	limiter     writeLimiter // for a body that may be long; nil: none
	vary        []string     // the request headers that the answer depends on; nil: none
	etag        []string
	revision    []string // the revision of the registry that was read
	// leaderContact is how many milliseconds ago this instance heard from a leader; empty
	// if that does not matter.
	leaderContact string
	location      string
	allow         string
	closeConn     bool // close the connection after the answer
}

func (a *answer) setRevision(revision domain.Revision) {
	a.revision = []string{formatRevision(revision)}
}

var (
	jsonType   = []string{"application/json"}
	noCache    = []string{"no-cache"}
	retryAfter = []string{"1"}
	closing    = []string{"close"}
)

// The names are in net/http's canonical form, because they are map keys here.
const (
	revisionHeader     = "Nodesmetadata-Revision"
	contactHeader      = "Nodesmetadata-Leader-Contact"
	etagHeader         = "Etag"
	contentTypeHeader  = "Content-Type"
	cacheControlHeader = "Cache-Control"
)

// write sends a, but not its content. On a HEAD net/http drops the body.
func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	// A cache may keep an answer, but must validate it before each use.
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
	if a.closeConn {
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
	// An error here means that the client has gone.
	if a.limiter == nil {
		_, _ = w.Write(a.body)
		return
	}
	_ = a.limiter.write(w, a.body)
}
