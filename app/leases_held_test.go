package app

import (
	"log/slog"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// Whoever writes a node holds it for as long as that takes. What stayed would be all the
// ids that were ever written.
func TestNothingStaysHeld(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	l := NewLeases(LeaseConfig{Registry: i, Local: i, Logger: slog.New(slog.DiscardHandler)})
	var releases []func()
	for range 2 {
		release, err := l.hold(t.Context(), []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, func() { release(nil) })
	}
	for left, release := range []func(){releases[1], releases[0]} {
		release()
		if held := len(l.held); held != 2*(1-left) {
			t.Errorf("%d are held", held)
		}
	}
}
