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

// changing implements ports.Local with a state that changes when a test calls change.
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

func withNotifier(t *testing.T, streams int, do func(local *changing, notifier *httpapi.Notifier)) {
	synctest.Test(t, func(t *testing.T) {
		local := &changing{later: make(chan struct{})}
		notifier := httpapi.NewNotifier(local, streams)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			notifier.Run(ctx)
		}()
		<-time.After(time.Minute)
		notifier.Woken()
		do(local, notifier)
		cancel()
		<-ended
	})
}

func TestAChangeAfterAPauseWakesTheStreamsAtOnce(t *testing.T) {
	withNotifier(t, 10_000, func(local *changing, notifier *httpapi.Notifier) {
		for range 3 {
			local.change()
			if woken := notifier.Woken(); woken != 10_000 {
				t.Errorf("streams woken = %d, want 10000", woken)
			}
			<-time.After(time.Second)
		}
	})
}

func TestChangesThatComeFasterThanTheStreamsTakeThemWakeThemTogether(t *testing.T) {
	for _, streams := range []int{1, 1000, 20_000} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			withNotifier(t, streams, func(local *changing, notifier *httpapi.Notifier) {
				const every, long = time.Millisecond, time.Second
				wakings := 0
				for range long / every {
					local.change()
					wakings += notifier.Woken()
					<-time.After(every)
				}
				local.change()
				<-time.After(time.Second)
				if notifier.Woken() != streams {
					t.Errorf("streams woken by the last change = %d, want %d", notifier.Woken(), streams)
				}
				// Each stream is woken at most once for each change, with many streams at
				// most as often as they get through, and never less than ten times a
				// second.
				if perStream := wakings / streams; perStream > 1000 || streams >= 1000 && perStream > 250 || perStream < 9 {
					t.Errorf("wake-ups of each stream = %d, want 9 to 1000, or at most 250 with many streams", perStream)
				}
			})
		})
	}
}

func TestOtherGoroutinesDoNotWaitForAWholeRound(t *testing.T) {
	// With one processor, only the scheduler decides which goroutine is next.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const streams, atMost = 6000, 500
	notifier := httpapi.NewNotifier(nil, streams)
	var served atomic.Int64
	var ready, all sync.WaitGroup
	ready.Add(streams)
	for i := range streams {
		all.Go(func() {
			ready.Done()
			notifier.Await(i)
			served.Add(1)
		})
	}
	ready.Wait()
	all.Go(notifier.NotifyAll)
	var longest, before int64
	for before < streams {
		runtime.Gosched()
		now := served.Load()
		longest = max(longest, now-before)
		before = now
	}
	all.Wait()
	if longest > atMost {
		t.Errorf("%d of %d streams were served before any other goroutine, want at most %d", longest, streams, atMost)
	}
}
