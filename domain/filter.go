package domain

import (
	"cmp"
	"errors"
	"slices"
)

// Filter selects nodes: a node matches if it meets every criterion that is set. The
// zero Filter matches all nodes. A Filter is never modified.
type Filter struct {
	Pool  *string
	State *State
	Zone  *string // "" matches the nodes without a zone
	// Labels are labels that a node must have, with these values.
	Labels []Label
}

// Label is one label of a node.
type Label struct{ Key, Value string }

// Validate returns all faults of f at once (InvalidError, joined).
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

// All reports whether f matches every node.
func (f Filter) All() bool {
	return f.Pool == nil && f.State == nil && f.Zone == nil && len(f.Labels) == 0
}

// Normalized returns a filter that matches the same nodes, with its labels sorted
// and without duplicates.
func (f Filter) Normalized() Filter {
	f.Labels = slices.Clone(f.Labels)
	slices.SortFunc(f.Labels, func(a, b Label) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
	})
	f.Labels = slices.Compact(f.Labels)
	return f
}

// Matches reports whether f selects n.
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

// Change returns c as a subscriber sees it who knows only the matching nodes. A node
// that begins to match is Added; a node that ceases to match is Removed, in the last
// state in which it matched. It returns false if c concerns no matching node. c must be
// a change from the history, so its Effect is not Unchanged.
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
