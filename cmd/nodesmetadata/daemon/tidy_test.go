package daemon_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func TestMemoryIsTidiedWhenTheProcessHasBecomeQuiet(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		allocated []uint64 // bytes, from one tick to the next
		live      uint64
		want      []bool
	}{
		"nothing happens":       {allocated: []uint64{0, 0}, want: []bool{false, false}},
		"a burst":               {allocated: []uint64{20 * mib, 20 * mib, 0, 0}, want: []bool{false, false, true, false}},
		"a burst that fades":    {allocated: []uint64{20 * mib, mib, mib / 4}, want: []bool{false, false, true}},
		"two bursts":            {allocated: []uint64{20 * mib, 0, 20 * mib, 0}, want: []bool{false, true, false, true}},
		"small bursts":          {allocated: []uint64{2 * mib, 0, mib, 0, mib, 0}, want: []bool{false, false, false, false, false, true}},
		"a little at each tick": {allocated: []uint64{mib / 4, mib / 4}, want: []bool{false, false}},
		"a burst that is small beside the memory in use": {
			allocated: []uint64{20 * mib, 0, 20 * mib, 0}, live: 160 * mib, want: []bool{false, false, false, true},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var q daemon.Quiet
			var total uint64
			for tick, allocated := range test.allocated {
				total += allocated
				due := q.Due(total, test.live)
				if due != test.want[tick] {
					t.Fatalf("tick %d: due = %v, want %v", tick, due, test.want[tick])
				}
				if due {
					total += 1000 // tidying allocates as well
					q.Tidied(total)
				}
			}
		})
	}
}

func TestAnOperatorWhoTunesMemoryIsLeftAlone(t *testing.T) {
	for variable, want := range map[string]bool{"GOGC=50": true, "GOMEMLIMIT=64MiB": true, "GOGCX=1": false, "HOME=GOGC=": false} {
		if got := daemon.OperatorTunes([]string{"A=b", variable}); got != want {
			t.Errorf("%s: OperatorTunes = %v, want %v", variable, got, want)
		}
	}
}

// garbage is allocated and not used any more.
var garbage []byte

func TestMemoryIsReturnedOnceAfterABurst(t *testing.T) {
	collections := func() uint32 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.NumForcedGC
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { daemon.Tidy(ctx) })
		time.Sleep(5 * time.Second) // what came before this test is tidied
		before := collections()
		time.Sleep(time.Minute)
		if n := collections() - before; n != 0 {
			t.Errorf("collections while nothing happened = %d, want none", n)
		}
		garbage = make([]byte, 64<<20)
		garbage = nil
		time.Sleep(time.Minute)
		if n := collections() - before; n != 1 {
			t.Errorf("collections after a burst = %d, want 1", n)
		}
		cancel()
		running.Wait()
	})
}
