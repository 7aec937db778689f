package harness

import (
	"maps"
	"net/url"
)

// Filter selects nodes for a list or a stream. An unset field matches every node.
type Filter struct {
	Pool, State string
	Zone        *string
	Labels      map[string]string
}

// Query returns the filter as a query string.
func (f Filter) Query() string {
	query := url.Values{}
	if f.Pool != "" {
		query.Set("pool", f.Pool)
	}
	if f.State != "" {
		query.Set("state", f.State)
	}
	if f.Zone != nil {
		query.Set("zone", *f.Zone)
	}
	for key, value := range f.Labels {
		query.Add("label", key+"="+value)
	}
	return query.Encode()
}

// Matches reports whether the filter selects node.
func (f Filter) Matches(node Node) bool {
	if f.Pool != "" && node.Pool != f.Pool || f.State != "" && node.State != f.State || f.Zone != nil && node.Zone != *f.Zone {
		return false
	}
	for key, value := range f.Labels {
		if got, has := node.Labels[key]; !has || got != value {
			return false
		}
	}
	return true
}

// Of returns the part of registry that the filter selects.
func (f Filter) Of(registry Registry) Registry {
	left := Registry{Revision: registry.Revision, Nodes: maps.Clone(registry.Nodes)}
	maps.DeleteFunc(left.Nodes, func(_ string, node Node) bool { return !f.Matches(node) })
	return left
}
