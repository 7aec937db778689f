package httpapi

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func formatRevision(revision domain.Revision) string {
	return strconv.FormatUint(uint64(revision), 10)
}

// parseRevision accepts only the form that formatRevision returns, so that a revision has
// one spelling.
func parseRevision(text string) (domain.Revision, bool) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || formatRevision(domain.Revision(n)) != text {
		return 0, false
	}
	return domain.Revision(n), true
}

func etag(revision domain.Revision) string { return `"` + formatRevision(revision) + `"` }

// parseEtag accepts only what etag returns.
func parseEtag(tag string) (domain.Revision, bool) {
	if len(tag) < 2 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return 0, false
	}
	return parseRevision(tag[1 : len(tag)-1])
}

// writeCondition returns the condition of a PUT or DELETE of a node. A condition that is not
// understood is refused: to ignore it would cause the very accident that it is there to
// prevent.
func writeCondition(r request) (domain.Condition, error) {
	match, hasMatch := r.Header["If-Match"]
	noneMatch, hasNoneMatch := r.Header["If-None-Match"]
	switch {
	case !hasMatch && !hasNoneMatch:
		return domain.Condition{}, nil
	case hasMatch && hasNoneMatch:
		return domain.Condition{}, invalidRequest("If-Match and If-None-Match exclude each other")
	case hasNoneMatch && r.Method == http.MethodDelete:
		return domain.Condition{}, invalidRequest("If-None-Match makes no sense on a DELETE")
	case hasNoneMatch:
		if len(noneMatch) != 1 || strings.TrimSpace(noneMatch[0]) != "*" {
			return domain.Condition{}, invalidRequest("If-None-Match must be * on a PUT: %q", noneMatch)
		}
		return domain.Condition{Expect: domain.Absent}, nil
	case len(match) != 1:
		return domain.Condition{}, invalidRequest("If-Match must be given once: %q", match)
	}
	text := strings.TrimSpace(match[0])
	if text == "*" {
		return domain.Condition{Expect: domain.Present}, nil
	}
	if revision, ok := parseEtag(text); ok {
		return domain.Condition{Expect: domain.AtRevision, Revision: revision}, nil
	}
	return domain.Condition{}, invalidRequest("If-Match must be * or one revision in quotes: %q", match[0])
}

// noCondition refuses conditions on a call that supports none.
func noCondition(r request) error {
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if _, given := r.Header[name]; given {
			return invalidRequest("%s is not supported here", name)
		}
	}
	return nil
}

// checkMatch refuses a read whose If-Match does not name tag, the ETag of what was asked
// for (RFC 9110, section 13.1.1).
func checkMatch(r request, tag string) error {
	lines, given := r.Header["If-Match"]
	if !given || anyTag(lines, func(candidate string) bool { return candidate == tag }) {
		return nil
	}
	return fmt.Errorf("%w: the ETag is %s, and If-Match names %s", domain.ErrConditionFailed, tag, strings.Join(lines, ", "))
}

// checkMatchOf is checkMatch for a read of the registry. seen is its revision, and current
// the node that was read; nil for all of them.
func checkMatchOf(r request, tag string, seen domain.Revision, current *domain.CacheNode) error {
	if err := checkMatch(r, tag); err != nil {
		return &domain.Refusal{Err: err, Revision: seen, Current: current}
	}
	return nil
}

// notModified reports whether If-None-Match names tag, the ETag of what was asked for.
func notModified(r request, tag string) bool {
	return anyTag(r.Header["If-None-Match"], func(candidate string) bool { return strings.TrimPrefix(candidate, "W/") == tag })
}

// anyTag reports whether one of the comma-separated tags in lines is * or matches. A tag
// that is not understood matches nothing: the worst that comes of it is a full answer, or
// the refusal of a read.
func anyTag(lines []string, matches func(tag string) bool) bool {
	for _, line := range lines {
		for candidate := range strings.SplitSeq(line, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || matches(candidate) {
				return true
			}
		}
	}
	return false
}

// streamPosition returns the revision after which a stream of changes is to go on; nil for
// the beginning.
func streamPosition(r request) (*domain.Revision, error) {
	var position *domain.Revision
	if r.query.Has(paramSince) {
		since, err := r.query.revision(paramSince)
		if err != nil {
			return nil, err
		}
		position = &since
	}
	ids := r.Header.Values("Last-Event-ID")
	switch {
	case len(ids) > 1:
		return nil, invalidRequest("Last-Event-ID must be given once: %q", ids)
	case len(ids) == 1 && ids[0] != "":
		revision, ok := parseRevision(ids[0])
		if !ok {
			return nil, invalidRequest("Last-Event-ID must be a revision: %q", ids[0])
		}
		position = &revision
	}
	return position, nil
}
