package offline

import (
	"strings"
	"sync"
	"testing"
)

// A backend logs warnings from its own goroutines.
func TestAWarningOfManyGoroutinesIsToldOnce(t *testing.T) {
	var out strings.Builder
	log := (&notes{out: &out}).logger()
	var warning sync.WaitGroup
	for range 8 {
		warning.Go(func() {
			for range 100 {
				log.Warn("the disk is slow", "path", "/d")
			}
		})
	}
	warning.Wait()
	if want := "nodesmetadata: warning: the disk is slow path=/d\n"; out.String() != want {
		t.Errorf("stderr = %q, want %q", out.String(), want)
	}
}
