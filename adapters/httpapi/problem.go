package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// The kinds of requests that this package refuses by itself, before it calls a port.
var (
	errInvalidJSON    = errors.New("invalid JSON")
	errInvalidRequest = errors.New("invalid request")
	errBodyTooLarge   = errors.New("body too large")
	errMediaType      = errors.New("unsupported media type")
	errSlowBody       = errors.New("slow body")
	errNoRoute        = errors.New("no such path")
	errMethod         = errors.New("method not allowed")
	errCrossOrigin    = errors.New("cross origin")
)

// fault is one of the errors above with a text for the client.
type fault struct {
	kind error
	text string
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.kind }

func refuse(kind error, format string, args ...any) error {
	return &fault{kind, fmt.Sprintf(format, args...)}
}

func invalidRequest(format string, args ...any) error {
	return refuse(errInvalidRequest, format, args...)
}

// leaderElsewhere is ports.ErrNotLeader with the leader's application address.
type leaderElsewhere struct{ address string }

func (e *leaderElsewhere) Error() string { return "the leader is at " + e.address }
func (e *leaderElsewhere) Unwrap() error { return ports.ErrNotLeader }

// outcome is how an error is answered.
type outcome struct {
	err    error
	status int
	code   string
}

// outcomes is the one place where errors become statuses. The first row that matches counts,
// so the order decides for an error that wraps several.
var outcomes = []outcome{
	// First, because its cause, such as a deadline, would claim that nothing was written.
	{ports.ErrOutcomeUnknown, http.StatusServiceUnavailable, "outcome_unknown"},

	{domain.ErrConditionFailed, http.StatusPreconditionFailed, "precondition_failed"},
	{domain.ErrAddressInUse, http.StatusConflict, "address_in_use"},
	{domain.ErrRegistryFull, http.StatusConflict, "registry_full"},
	{domain.ErrUnreachable, http.StatusUnprocessableEntity, "instance_unreachable"},
	{domain.ErrIDMismatch, http.StatusConflict, "id_mismatch"},
	{domain.ErrOtherCluster, http.StatusConflict, "other_cluster"},
	{domain.ErrTooOld, http.StatusConflict, "instance_too_old"},
	{domain.ErrIDInUse, http.StatusConflict, "id_in_use"},
	{domain.ErrClusterFull, http.StatusConflict, "cluster_full"},
	{domain.ErrNotVoter, http.StatusConflict, "not_voter"},
	{domain.ErrLastVoter, http.StatusConflict, "last_voter"},
	{ports.ErrNoMajorityLeft, http.StatusConflict, "no_majority_left"},
	{domain.ErrNoTimeToLive, http.StatusConflict, "no_time_to_live"},
	{domain.ErrNoSuchNode, http.StatusNotFound, "node_not_found"},
	{domain.ErrNoSuchInstance, http.StatusNotFound, "instance_not_found"},
	{domain.ErrInvalid, http.StatusBadRequest, "invalid_request"},

	{errDamagedBackup, http.StatusBadRequest, "damaged_backup"},
	{errInvalidJSON, http.StatusBadRequest, "invalid_json"},
	{errInvalidRequest, http.StatusBadRequest, "invalid_request"},
	{errBodyTooLarge, http.StatusRequestEntityTooLarge, "body_too_large"},
	{errMediaType, http.StatusUnsupportedMediaType, "unsupported_media_type"},
	{errSlowBody, http.StatusRequestTimeout, "request_timeout"},
	{errNoRoute, http.StatusNotFound, "not_found"},
	{errMethod, http.StatusMethodNotAllowed, "method_not_allowed"},
	{errCrossOrigin, http.StatusForbidden, "cross_origin"},

	// Before ErrNotLeader: a redirect needs a target.
	{ports.ErrNoLeader, http.StatusServiceUnavailable, "no_leader"},
	{ports.ErrCutOff, http.StatusServiceUnavailable, "no_leader"},
	{ports.ErrNotLeader, http.StatusTemporaryRedirect, notLeader.code},
	{ports.ErrNotCaughtUp, http.StatusServiceUnavailable, "not_caught_up"},
	{ports.ErrTooStale, http.StatusServiceUnavailable, "too_stale"},
	{ports.ErrBehind, http.StatusServiceUnavailable, "revision_not_reached"},
	{ports.ErrBusy, http.StatusServiceUnavailable, "busy"},
	{ports.ErrUpgrading, http.StatusServiceUnavailable, "upgrade_in_progress"},
	{ports.ErrRestoring, http.StatusServiceUnavailable, "busy"},
	{ports.ErrClosed, http.StatusServiceUnavailable, "shutting_down"},
	{ports.ErrNoSuccessor, http.StatusServiceUnavailable, "no_successor"},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timeout"},
	// Either the client has gone and nobody reads this, or the server is closing and ended
	// the request.
	{context.Canceled, http.StatusServiceUnavailable, "shutting_down"},

	{errPanic, http.StatusInternalServerError, "internal"},
}

// notLeader is the outcome of ErrNotLeader for a request with redirect=false.
var notLeader = outcome{ports.ErrNotLeader, http.StatusServiceUnavailable, "not_leader"}

// ownFault is the detail that a client gets instead of one that only the log should have.
const ownFault = "a fault of this program: its log says more"

// internal is the outcome of every other error.
var internal = outcome{nil, http.StatusInternalServerError, "internal"}

func outcomeOf(err error) outcome {
	for _, row := range outcomes {
		if errors.Is(err, row.err) {
			return row
		}
	}
	return internal
}

// problem is the body of an answer to an error: a problem document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Error  string `json:"error"`
	// Leader is the application address of the leader, for a request with redirect=false.
	Leader string         `json:"leader,omitzero"`
	Node   jsontext.Value `json:"node,omitzero"`
}

var problemType = []string{"application/problem+json"}

// answerTo turns err into the answer to r. For ports.ErrNotLeader it looks up the leader's
// address: see leader.
func (s *Server) answerTo(ctx context.Context, r request, err error) answer {
	row := outcomeOf(err)
	var location, named string
	if row.status == http.StatusTemporaryRedirect {
		leader, lookupErr := s.leader(ctx, err)
		switch {
		case lookupErr != nil:
			err = lookupErr
			row = outcomeOf(err)
		case r.query.noRedirect():
			err, row, named = &leaderElsewhere{leader}, notLeader, leader
		default:
			err = &leaderElsewhere{leader}
			location = redirectTarget(leader, r)
			s.metrics.redirects.Inc()
		}
	}
	detail := err.Error()
	if row.err == nil {
		s.config.Logger.Error("a request failed for no reason that its asker could know",
			"method", r.Method, "path", r.URL.Path, "error", err)
		detail = ownFault
	}
	a := answer{
		status:      row.status,
		contentType: problemType,
		location:    location,
		// Otherwise net/http would wait for the rest of the body before the answer, or take
		// it for the next request. In HTTP/2 the body has a stream of its own, and other
		// requests use the connection.
		closeConn: r.ProtoMajor == 1 && (row.status == http.StatusRequestTimeout || row.status == http.StatusRequestEntityTooLarge),
	}
	document := problem{
		Type:   "about:blank",
		Title:  http.StatusText(row.status),
		Status: row.status,
		Detail: oneLine(detail),
		Code:   row.code,
		Leader: named,
	}
	document.Error = document.Detail
	if refusal, ok := errors.AsType[*domain.Refusal](err); ok {
		a.setRevision(refusal.Revision)
		if row.status == http.StatusPreconditionFailed && refusal.Current != nil {
			document.Node = appendNode(nil, refusal.Current)
		}
	}
	if behind, ok := errors.AsType[*ports.BehindError](err); ok {
		a.setRevision(behind.Revision)
	}
	a.body = marshal(document)
	return a
}

// leader returns the application address of the leader, or an error such as
// ports.ErrNoLeader. err is the ports.ErrNotLeader that it is looked up for.
func (s *Server) leader(ctx context.Context, err error) (string, error) {
	if known, ok := errors.AsType[*leaderElsewhere](err); ok {
		return known.address, nil
	}
	return s.config.Locator.LeaderAddress(ctx)
}

func redirectTarget(leader string, r request) string {
	target := "http://" + leader + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		target += "?" + forLocation(r.URL.RawQuery)
	}
	return target
}

// forLocation encodes characters of a query that a client may have sent as they are, and that
// would not survive a redirect: a space, a # (what follows would be a fragment), and
// non-ASCII bytes, which some clients read in a header as Latin-1.
func forLocation(query string) string {
	var b []byte
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c == '#' || c >= utf8.RuneSelf {
			b = fmt.Appendf(b, "%%%02X", c)
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// maxDetail is the maximum length of a detail, which may quote the request.
const maxDetail = 1 << 10

// oneLine turns the text of an error, in which joined errors have a line each, into one line
// of valid UTF-8, cut after maxDetail bytes.
func oneLine(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\n", "; "), "\uFFFD")
	if len(text) <= maxDetail {
		return text
	}
	end := maxDetail
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// marshal encodes a value of this package whose strings are valid UTF-8.
func marshal(value any) []byte {
	encoded, err := json.Marshal(value, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		// A type that can't be encoded is a bug that any test of it finds.
		panic(fmt.Sprintf("httpapi: %v", err))
	}
	return encoded
}
