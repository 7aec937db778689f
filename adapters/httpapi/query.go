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

// What calls know.
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
	// defaultWait is how long a request waits that says for what, and not how long.
	defaultWait = 5 * time.Second
	longestWait = time.Minute
)

// checkQuery refuses every parameter that is not in allowed, and any that is
// given twice.
func checkQuery(r *http.Request, allowed []string) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return invalidRequest("the query is not properly encoded: %v", err)
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case !slices.Contains(allowed, name):
			faults = append(faults, invalidRequest("the parameter %q is not supported here", name))
		case len(query[name]) > 1 && name != paramLabel:
			faults = append(faults, invalidRequest("the parameter %q is given %d times", name, len(query[name])))
		}
	}
	return errors.Join(faults...)
}

// readOf reads how a request wants to be answered.
func readOf(r *http.Request) (ports.Read, error) {
	if r.URL.RawQuery == "" {
		return ports.Read{}, nil
	}
	query := r.URL.Query()
	var read ports.Read
	var faults []error
	note := func(err error) { faults = append(faults, err) }

	var err error
	read.Source, err = sourceOf(query)
	note(err)
	if query.Has(paramMaxStale) {
		bound, err := duration(query, paramMaxStale)
		note(err)
		if read.Source != ports.Stale {
			note(invalidRequest("%s is only for consistency=stale: any other answer is up to date", paramMaxStale))
		}
		read.MaxStale = &bound
	}
	if query.Has(paramMinRevision) {
		read.AtLeast, err = revision(query, paramMinRevision)
		note(err)
	}
	if query.Has(paramSince) {
		since, err := revision(query, paramSince)
		note(err)
		read.Past = &since
	}
	waits := query.Has(paramMinRevision) || query.Has(paramSince)
	switch {
	case query.Has(paramWait) && !waits:
		note(invalidRequest("%s needs something to wait for: %s or %s", paramWait, paramMinRevision, paramSince))
	case query.Has(paramWait):
		read.Wait, err = duration(query, paramWait)
		note(err)
		if read.Wait > longestWait {
			note(invalidRequest("%s must be at most %v: %q", paramWait, longestWait, query.Get(paramWait)))
		}
	case waits:
		read.Wait = defaultWait
	}
	return read, errors.Join(faults...)
}

// waitOf is how much longer than any other a request may take. What is wrong
// with it is told by readOf.
func waitOf(r *http.Request) time.Duration {
	if r.URL.RawQuery == "" {
		return 0
	}
	read, err := readOf(r)
	if err != nil {
		return 0
	}
	return read.Wait
}

// sourceOf reads which instance is to answer, and how fresh.
func sourceOf(query url.Values) (ports.Source, error) {
	var faults []error
	source := ports.Leader
	switch redirect := query.Get(paramRedirect); {
	case redirect == "false":
		source = ports.Here
	case redirect != "true" && query.Has(paramRedirect):
		faults = append(faults, invalidRequest("%s must be true or false: %q", paramRedirect, redirect))
	}
	switch consistency := query.Get(paramConsistency); {
	case consistency == "stale":
		source = ports.Stale
	case consistency != "linearizable" && query.Has(paramConsistency):
		faults = append(faults, invalidRequest("%s must be linearizable or stale: %q", paramConsistency, consistency))
	}
	return source, errors.Join(faults...)
}

// staysHere reports whether r must not be redirected. r may be any request.
func staysHere(r *http.Request) bool {
	return r.URL.RawQuery != "" && r.URL.Query().Get(paramRedirect) == "false"
}

// isStale reports whether r wants what this instance has. r may be any request.
func isStale(r *http.Request) bool {
	return r.URL.RawQuery != "" && r.URL.Query().Get(paramConsistency) == "stale"
}

// checkRedirect refuses what a write says of redirects, where it says nothing
// that makes sense.
func checkRedirect(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	_, err := sourceOf(r.URL.Query())
	return err
}

func revision(query url.Values, name string) (domain.Revision, error) {
	revision, ok := parseRevision(query.Get(name))
	if !ok {
		return 0, invalidRequest("%s must be a revision: %q", name, query.Get(name))
	}
	return revision, nil
}

func duration(query url.Values, name string) (time.Duration, error) {
	d, err := time.ParseDuration(query.Get(name))
	if err != nil || d < 0 {
		return 0, invalidRequest("%s must be a duration such as 500ms or 30s: %q", name, query.Get(name))
	}
	return d, nil
}

// filterOf reads which nodes a request is about.
func filterOf(r *http.Request) (domain.Filter, error) {
	if r.URL.RawQuery == "" {
		return domain.Filter{}, nil
	}
	query := r.URL.Query()
	given := func(name string) *string {
		if !query.Has(name) {
			return nil
		}
		value := query.Get(name)
		return &value
	}
	filter := domain.Filter{Pool: given(paramPool), State: (*domain.State)(given(paramState)), Zone: given(paramZone)}
	var faults []error
	for _, text := range query[paramLabel] {
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

// filterKey is equal for filters that leave out the same, and empty for the one
// that leaves out nothing.
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
