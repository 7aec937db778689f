package domain

import (
	"cmp"
	"errors"
	"slices"
)

// Filter says which nodes somebody wants to know of: those of which all that it
// names is true. The zero value is all nodes. It never changes.
type Filter struct {
	Pool  *string
	State *State
	Zone  *string // "" is for nodes without one
	// Labels must all be there, with these values.
	Labels []Label
}

// Label is one label of a node.
type Label struct{ Key, Value string }

// Validate says everything that is wrong with f (InvalidError, joined).
func (f Filter) Validate() error {
	var faults []error
	if f.Pool != nil {
		faults = append(faults, CheckID("pool", *f.Pool))
	}
	if f.State != nil {
		faults = append(faults, checkState(*f.State))
	}
	if f.Zone != nil {
		faults = append(faults, checkText("zone", *f.Zone, MaxZoneBytes))
	}
	if len(f.Labels) > MaxLabels {
		faults = append(faults, invalid("label", "is given %d times, more than %d", len(f.Labels), MaxLabels))
	}
	for _, label := range f.Labels {
		faults = append(faults, CheckID("label", label.Key), checkText("label", label.Value, MaxLabelValueBytes))
	}
	return errors.Join(faults...)
}

// All reports whether f leaves nothing out.
func (f Filter) All() bool {
	return f.Pool == nil && f.State == nil && f.Zone == nil && len(f.Labels) == 0
}

// Normalized gives the filter that leaves out the same, with its labels in one
// order and each of them once.
func (f Filter) Normalized() Filter {
	f.Labels = slices.Clone(f.Labels)
	slices.SortFunc(f.Labels, func(a, b Label) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
	})
	f.Labels = slices.Compact(f.Labels)
	return f
}

// Matches reports whether n is one of the nodes.
func (f Filter) Matches(n *CacheNode) bool {
	switch {
	case f.Pool != nil && n.Pool != *f.Pool,
		f.State != nil && n.State != *f.State,
		f.Zone != nil && n.Zone != *f.Zone:
		return false
	}
	for _, label := range f.Labels {
		if value, has := n.Labels[label.Key]; !has || value != label.Value {
			return false
		}
	}
	return true
}

// Change gives c as it is to somebody who knows of the matching nodes only: a
// node that comes to match is added to them, one that no longer does is removed
// from them as it was last. False when it is no change to them. c is a change of
// the history: it did change something.
func (f Filter) Change(c Change) (Change, bool) {
	was := c.Previous != nil && f.Matches(c.Previous)
	is := c.Effect != Removed && f.Matches(c.Node)
	switch {
	case was && is:
		return c, true
	case is:
		c.Effect, c.Previous = Added, nil
		return c, true
	case was:
		c.Effect, c.Node = Removed, c.Previous
		return c, true
	}
	return Change{}, false
}
