package simulation

import (
	"hash/crc32"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// replays is how often a seed given by the flag is tried.
const replays = 100

func TestHistories(t *testing.T) {
	dealt := shards(*first, *histories, runtime.NumCPU())
	enough := *seed != 0
	if enough {
		dealt = [][]uint64{make([]uint64, replays)}
		for i := range dealt[0] {
			dealt[0][i] = *seed
		}
	}
	began := time.Now()
	var (
		working sync.WaitGroup
		mu      sync.Mutex
		all     []report
	)
	for _, seeds := range dealt {
		working.Go(func() {
			reports := work(t.Context(), t, "", assignment{Seeds: seeds, Enough: enough})
			mu.Lock()
			defer mu.Unlock()
			all = append(all, reports...)
		})
	}
	working.Wait()
	for i, r := range failing(all) {
		if i < 5 {
			tell(t, r)
		} else {
			t.Errorf("seed %d failed, too", r.Seed)
		}
	}
	summarize(t, all, time.Since(began))
}

// summarize logs totals, and fails the test if they are too small to prove anything.
func summarize(t *testing.T, all []report, took time.Duration) {
	var operations, changes, faults, unsearched int
	digests := map[uint32]int{}
	for _, r := range all {
		operations += r.Operations
		changes += r.Changes
		faults += r.Faults
		digests[r.Digest]++
		if !r.Searched {
			unsearched++
		}
	}
	t.Logf("%d histories in %v: %d operations answered, %d changes, %d faults; porcupine gave up on %d; %d different histories",
		len(all), took.Round(time.Millisecond), operations, changes, faults, unsearched, len(digests))
	if n := len(all); *seed == 0 && (n == 0 || operations < 30*n || changes < 5*n || faults < n) {
		t.Errorf("%d histories have too little load to prove anything: %d operations, %d changes, %d faults", n, operations, changes, faults)
	}
	if unsearched > 1+len(all)/50 {
		t.Errorf("porcupine gave up on %d of %d histories, want at most one in fifty", unsearched, len(all))
	}
}

// report summarizes a history.
func (h *story) report() report {
	r := report{Seed: h.seed, Ended: true, Changes: len(h.seen.changes), Faults: h.happened}
	for _, one := range h.records {
		if one.outcome != notDone {
			r.Operations++
		}
	}
	r.Found, r.Searched = h.check()
	r.Digest = crc32.ChecksumIEEE([]byte(strings.Join(h.lines, "\n")))
	if len(r.Found) > 0 {
		r.Trace = h.lines
	}
	return r
}
