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
	// tidyTick is how often it is looked whether the process has become quiet.
	tidyTick = 500 * time.Millisecond
	// quietBytes is how much may be allocated in a tick for it to be a quiet one.
	quietBytes = 512 << 10
	// worthBytes is how much has to have been allocated to be worth the trouble;
	// where more is in use, a part of that, as the trouble grows with it.
	worthBytes = 4 << 20
	worthShare = 4
)

// tidy gives memory back to the system, whenever much of it was used and the process
// has become quiet, until ctx ends. By itself Go collects garbage only when as much
// again has been allocated as is in use, or after two minutes: so what a burst of
// writes, or of streams that were opened, has left behind would stay for as long as
// nothing happens, the stacks of those streams too.
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

// operatorTunes says whether the environment tells Go how to use memory. Then that is
// all that is done.
func operatorTunes(environ []string) bool {
	return slices.ContainsFunc(environ, func(variable string) bool {
		return strings.HasPrefix(variable, "GOGC=") || strings.HasPrefix(variable, "GOMEMLIMIT=")
	})
}

// memoryUse is how many bytes were ever allocated, and how many were in use when
// garbage was collected last.
func memoryUse() (allocated, live uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}

// quiet finds out when it is time to tidy.
type quiet struct {
	latest uint64 // allocated, at the last tick
	since  uint64 // allocated, when it was tidied last
}

// due is asked at every tick.
func (q *quiet) due(allocated, live uint64) bool {
	now := allocated-q.latest < quietBytes
	q.latest = allocated
	return now && allocated-q.since >= max(worthBytes, live/worthShare)
}

// tidied is told afterwards.
func (q *quiet) tidied(allocated uint64) { q.latest, q.since = allocated, allocated }
