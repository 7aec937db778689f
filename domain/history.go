package domain

import (
	"fmt"
	"slices"
)

// How much of the past is kept: this many changes, or fewer when they are more
// than this many bytes.
const (
	HistoryLength = 10_000
	HistoryBytes  = 32 << 20
)

// history is the latest changes, with no gap between their revisions. Which
// ones it holds depends on the changes alone, so it is equal on every replica.
//
// A header of the slice is shared with views. That is safe: an element is
// written once, before any header reaches it, and trimming only moves the start.
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

// since gives the changes after revision, in order; false when history does not
// reach back that far.
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
