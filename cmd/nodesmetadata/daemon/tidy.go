package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"time"
)

const (
	// tidyTick is how often tidy checks whether the process has become quiet.
	tidyTick = 500 * time.Millisecond
	// quietBytes is how much may be allocated in a tick that counts as quiet.
	quietBytes = 512 << 10
	// worthBytes is how much must have been allocated for a collection to be worth its
	// cost. That cost grows with the memory in use, so it must also be at least a
	// worthShare-th part of that.
	worthBytes = 4 << 20
	worthShare = 4
)

// tidy returns memory to the operating system whenever much was allocated and the process
// has become quiet, until ctx ends. By itself Go collects garbage only after as much has
// been allocated as is in use, or after two minutes. So the garbage of a burst of writes,
// and the stacks of streams that have ended, would stay while nothing happens.
func tidy(ctx context.Context) {
	ticker := time.NewTicker(tidyTick)
	defer ticker.Stop()
	var q quiet
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if q.due(memoryUse()) {
			debug.FreeOSMemory()
			allocated, _ := memoryUse()
			q.tidied(allocated)
		}
	}
}

// operatorTunes reports whether the environment tunes Go's use of memory. Then tidy does
// not run.
func operatorTunes(environ []string) bool {
	return slices.ContainsFunc(environ, func(variable string) bool {
		return strings.HasPrefix(variable, "GOGC=") || strings.HasPrefix(variable, "GOMEMLIMIT=")
	})
}

// memoryUse returns how many bytes were ever allocated, and how many were in use at the
// last garbage collection.
func memoryUse() (allocated, live uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}

// quiet detects when it is time to tidy.
type quiet struct {
	latest uint64 // bytes ever allocated, at the last tick
	since  uint64 // bytes ever allocated, when memory was last returned
}

// due reports whether it is time. It must be called at every tick.
func (q *quiet) due(allocated, live uint64) bool {
	now := allocated-q.latest < quietBytes
	q.latest = allocated
	return now && allocated-q.since >= max(worthBytes, live/worthShare)
}

// tidied must be called after memory was returned.
func (q *quiet) tidied(allocated uint64) { q.latest, q.since = allocated, allocated }
