package httpapi_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// changing is ports.Local whose state changes whenever it is told to.
type changing struct {
	ports.Local
	mu    sync.Mutex
	later chan struct{}
}

func (c *changing) State() (ports.LocalState, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ports.LocalState{}, c.later
}

func (c *changing) change() {
	c.mu.Lock()
	close(c.later)
	c.later = make(chan struct{})
	c.mu.Unlock()
	synctest.Wait()
}

func withWaves(t *testing.T, streams int, do func(local *changing, waves *httpapi.Waves)) {
	synctest.Test(t, func(t *testing.T) {
		local := &changing{later: make(chan struct{})}
		waves := httpapi.NewWaves(local, streams)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			waves.Run(ctx)
		}()
		<-time.After(time.Minute)
		waves.Woken()
		do(local, waves)
		cancel()
		<-ended
	})
}

func TestAChangeAfterAPauseWakesTheStreamsAtOnce(t *testing.T) {
	withWaves(t, 10_000, func(local *changing, waves *httpapi.Waves) {
		for range 3 {
			local.change()
			if woken := waves.Woken(); woken != 10_000 {
				t.Errorf("%d streams were woken", woken)
			}
			<-time.After(time.Second)
		}
	})
}

func TestChangesThatComeFasterThanTheStreamsTakeThemWakeThemTogether(t *testing.T) {
	for _, streams := range []int{1, 1000, 20_000} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			withWaves(t, streams, func(local *changing, waves *httpapi.Waves) {
				const every, long = time.Millisecond, time.Second
				wakings := 0
				for range long / every {
					local.change()
					wakings += waves.Woken()
					<-time.After(every)
				}
				local.change()
				<-time.After(time.Second)
				if waves.Woken() != streams {
					t.Error("the last change was told to nobody")
				}
				// As often as there are changes, at most; with many streams, as often
				// as they get through with; and never less than ten times a second.
				if waves := wakings / streams; waves > 1000 || streams >= 1000 && waves > 250 || waves < 9 {
					t.Errorf("there were %d waves", waves)
				}
			})
		})
	}
}

func TestWhatElseCanRunDoesNotWaitForAWholeWave(t *testing.T) {
	// With one processor it is the scheduler alone that decides who is next.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const streams, atMost = 6000, 500
	waves := httpapi.NewWaves(nil, streams)
	var served atomic.Int64
	var ready, all sync.WaitGroup
	ready.Add(streams)
	for i := range streams {
		all.Go(func() {
			ready.Done()
			waves.Await(i)
			served.Add(1)
		})
	}
	ready.Wait()
	all.Go(waves.Wake)
	var longest, before int64
	for before < streams {
		runtime.Gosched()
		now := served.Load()
		longest = max(longest, now-before)
		before = now
	}
	all.Wait()
	if longest > atMost {
		t.Errorf("%d of %d streams were served before anybody else", longest, streams)
	}
}
