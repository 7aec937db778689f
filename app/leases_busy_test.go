package app

import (
	"log/slog"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// A node is pinned only while it is being written. Otherwise the ids of all nodes ever
// written would stay in memory.
func TestNodesAreUnpinnedAfterTheirWrites(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	l := NewLeases(LeaseConfig{Registry: i, Local: i, Logger: slog.New(slog.DiscardHandler)})
	var releases []func()
	for range 2 {
		done, err := l.pin(t.Context(), []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, func() { done(nil) })
	}
	for left, release := range []func(){releases[1], releases[0]} {
		release()
		if busy := len(l.pinned); busy != 2*(1-left) {
			t.Errorf("pinned nodes = %d, want %d", busy, 2*(1-left))
		}
	}
}
