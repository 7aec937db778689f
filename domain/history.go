package domain

import (
	"fmt"
	"slices"
)

// The limits of the history: the oldest changes are dropped when it exceeds either one.
const (
	HistoryLength = 10_000
	HistoryBytes  = 32 << 20
)

// history is the latest changes, with no gap between their revisions. Which
// ones it holds depends on the changes alone, so it is equal on every replica.
//
// Views share the array behind the slice. That is safe: an element is written once,
// before any view can reach it, and dropping old changes only moves the start of the
// slice.
type history struct {
	changes []Change
	bytes   int
}

func (h *history) append(c Change) {
	h.changes = append(h.changes, c)
	h.bytes += c.size()
	drop := 0
	for len(h.changes)-drop > HistoryLength || h.bytes > HistoryBytes {
		h.bytes -= h.changes[drop].size()
		drop++
	}
	h.changes = h.changes[drop:]
}

// since returns those of changes that came after revision, where now is the revision of
// the last one; false if changes do not reach back that far, or revision is after now.
func since(changes []Change, now, revision Revision) ([]Change, bool) {
	if revision > now || now-revision > Revision(len(changes)) {
		return nil, false
	}
	return changes[len(changes)-int(now-revision):], true
}

func restoreHistory(now Revision, changes []Change) (history, error) {
	if Revision(len(changes)) > now {
		return history{}, fmt.Errorf("history has %d changes, and only %d were ever made", len(changes), now)
	}
	h := history{changes: slices.Clone(changes)}
	first := now - Revision(len(changes)) + 1
	for i := range h.changes {
		c := &h.changes[i]
		if c.Revision != first+Revision(i) || c.Node == nil {
			return history{}, fmt.Errorf("history has a gap or an empty change at revision %d", c.Revision)
		}
		h.bytes += c.size()
	}
	return h, nil
}
