package harness

import (
	"testing"
	"time"
)

// Patience is how long Eventually waits: much longer than anything should take,
// even on a machine busy with other tests.
const Patience = 30 * time.Second

const pollInterval = 5 * time.Millisecond

// Eventually calls check until it returns nil. It fails and ends the test if that
// does not happen within Patience.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	Within(t, Patience, what, check)
}

// Within is Eventually with the given patience instead of Patience. It returns how long it
// took.
func Within(t testing.TB, patience time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := check()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > patience {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
