// Package parallel calls a function for many items, a few at a time.
package parallel

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Do calls do for all numbers below n, in the given number of goroutines, and
// returns when they have ended. A goroutine stops at its first error. See Together
// for the result.
func Do(n, goroutines int, do func(i int) error) error {
	var next atomic.Int64
	faults := make([]error, min(n, goroutines))
	var working sync.WaitGroup
	for w := range faults {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && faults[w] == nil; i = int(next.Add(1)) - 1 {
				faults[w] = do(i)
			}
		})
	}
	working.Wait()
	return Together(faults)
}

// Together combines errors that are not nil: it returns their number and wraps the first.
func Together(faults []error) error {
	faults = slices.DeleteFunc(slices.Clone(faults), func(err error) bool { return err == nil })
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return faults[0]
	}
	return fmt.Errorf("%d errors; the first: %w", len(faults), faults[0])
}
