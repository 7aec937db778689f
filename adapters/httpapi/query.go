package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// The query parameters.
const (
	paramRedirect    = "redirect"
	paramConsistency = "consistency"
	paramMaxStale    = "max_stale"
	paramMinRevision = "min_revision"
	paramSince       = "since"
	paramWait        = "wait"
	paramPool        = "pool"
	paramState       = "state"
	paramZone        = "zone"
	paramLabel       = "label" // may be given more than once
	paramForce       = "force"
)

// The parameters that calls know.
var (
	writeParams  = []string{paramRedirect}
	sourceParams = []string{paramRedirect, paramConsistency}
	nodeParams   = slices.Concat(sourceParams, []string{paramMaxStale, paramMinRevision, paramWait})
	filterParams = []string{paramPool, paramState, paramZone, paramLabel}
	listParams   = slices.Concat(nodeParams, filterParams, []string{paramSince})
	streamParams = slices.Concat(sourceParams, filterParams, []string{paramSince})
	addParams    = []string{paramRedirect, paramForce}
	expireParams = []string{paramRedirect, paramPool}
)

const (
	// defaultWait is how long a request waits that has since or min_revision, but no wait.
	defaultWait = 5 * time.Second
	longestWait = time.Minute
)

// query holds the query parameters of a request.
type query struct {
	url.Values
	// malformed is the error of parsing; what is not properly encoded is not in Values.
	malformed error
}

// request is a request with its parsed query.
type request struct {
	*http.Request
	query query
}

func parsed(r *http.Request) request {
	if r.URL.RawQuery == "" {
		return request{Request: r}
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	return request{r, query{values, err}}
}

// check refuses every parameter that the call does not know, and any that is given twice.
func (c *call) check(q query) error {
	switch {
	case q.malformed != nil:
		return invalidRequest("the query is not properly encoded: %v", q.malformed)
	case len(q.Values) == 0:
		return nil
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(q.Values)) {
		switch {
		case !c.knows(name):
			faults = append(faults, invalidRequest("the parameter %q is not supported here", name))
		case len(q.Values[name]) > 1 && name != paramLabel:
			faults = append(faults, invalidRequest("the parameter %q is given %d times", name, len(q.Values[name])))
		}
	}
	return errors.Join(faults...)
}

func (c *call) knows(name string) bool { return slices.Contains(c.params, name) }

// waitOf returns how long a request asks to wait; zero if that is invalid, which read reports.
func (c *call) waitOf(q query) time.Duration {
	read, err := q.read()
	if err != nil || !c.knows(paramWait) {
		return 0
	}
	return read.Wait
}

// read returns how the request wants to be answered.
func (q query) read() (ports.Read, error) {
	if len(q.Values) == 0 {
		return ports.Read{}, nil
	}
	var read ports.Read
	var faults []error
	note := func(err error) { faults = append(faults, err) }

	var err error
	read.Source, err = q.source()
	note(err)
	if q.Has(paramMaxStale) {
		bound, err := q.duration(paramMaxStale)
		note(err)
		if read.Source != ports.Stale {
			note(invalidRequest("%s is only for consistency=stale: any other answer is up to date", paramMaxStale))
		}
		read.MaxStale = &bound
	}
	if q.Has(paramMinRevision) {
		read.AtLeast, err = q.revision(paramMinRevision)
		note(err)
	}
	if q.Has(paramSince) {
		since, err := q.revision(paramSince)
		note(err)
		read.Past = &since
	}
	waits := q.Has(paramMinRevision) || q.Has(paramSince)
	switch {
	case q.Has(paramWait) && !waits:
		note(invalidRequest("%s needs something to wait for: %s or %s", paramWait, paramMinRevision, paramSince))
	case q.Has(paramWait):
		read.Wait, err = q.duration(paramWait)
		note(err)
		if read.Wait > longestWait {
			note(invalidRequest("%s must be at most %v: %q", paramWait, longestWait, q.Get(paramWait)))
		}
	case waits:
		read.Wait = defaultWait
	}
	return read, errors.Join(faults...)
}

// source returns which instance is to answer, and how fresh the answer must be.
func (q query) source() (ports.Source, error) {
	source := ports.Leader
	redirect, err := q.boolean(paramRedirect, true)
	if !redirect {
		source = ports.Here
	}
	switch consistency := q.Get(paramConsistency); {
	case consistency == "stale":
		source = ports.Stale
	case consistency != "linearizable" && q.Has(paramConsistency):
		err = errors.Join(err, invalidRequest("%s must be linearizable or stale: %q", paramConsistency, consistency))
	}
	return source, err
}

// noRedirect reports whether the request must not be redirected, whatever else is wrong with
// it.
func (q query) noRedirect() bool { return q.Get(paramRedirect) == "false" }

// isStale reports whether the request wants what this instance has, whatever else is wrong
// with it.
func (q query) isStale() bool { return q.Get(paramConsistency) == "stale" }

func (q query) revision(name string) (domain.Revision, error) {
	revision, ok := parseRevision(q.Get(name))
	if !ok {
		return 0, invalidRequest("%s must be a revision: %q", name, q.Get(name))
	}
	return revision, nil
}

func (q query) duration(name string) (time.Duration, error) {
	d, err := time.ParseDuration(q.Get(name))
	if err != nil || d < 0 {
		return 0, invalidRequest("%s must be a duration such as 500ms or 30s: %q", name, q.Get(name))
	}
	return d, nil
}

func (q query) boolean(name string, byDefault bool) (bool, error) {
	switch value := q.Get(name); {
	case value == "true":
		return true, nil
	case value == "false":
		return false, nil
	case q.Has(name):
		return byDefault, invalidRequest("%s must be true or false: %q", name, value)
	}
	return byDefault, nil
}

// filter returns which nodes the request is about.
func (q query) filter() (domain.Filter, error) {
	if len(q.Values) == 0 {
		return domain.Filter{}, nil
	}
	given := func(name string) *string {
		if !q.Has(name) {
			return nil
		}
		value := q.Get(name)
		return &value
	}
	filter := domain.Filter{Pool: given(paramPool), State: (*domain.State)(given(paramState)), Zone: given(paramZone)}
	var faults []error
	for _, text := range q.Values[paramLabel] {
		key, value, both := strings.Cut(text, "=")
		if !both {
			faults = append(faults, invalidRequest("%s must be key=value: %q", paramLabel, text))
			continue
		}
		filter.Labels = append(filter.Labels, domain.Label{Key: key, Value: value})
	}
	filter = filter.Normalized()
	return filter, errors.Join(append(faults, filter.Validate())...)
}

// filterKey returns the same key for equivalent filters, and an empty one for the filter
// that lets everything through.
func filterKey(f domain.Filter) string {
	var key strings.Builder
	part := func(kind byte, value string) { fmt.Fprintf(&key, "%c%q", kind, value) }
	if f.Pool != nil {
		part('p', *f.Pool)
	}
	if f.State != nil {
		part('s', string(*f.State))
	}
	if f.Zone != nil {
		part('z', *f.Zone)
	}
	for _, label := range f.Labels {
		part('k', label.Key)
		part('v', label.Value)
	}
	return key.String()
}
