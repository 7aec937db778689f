package consensus

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndWaitsForCallersInside(t *testing.T) {
	tests := map[string]struct {
		enter, leave int
		timeout      time.Duration // timeout of the context
		leaveAfter   time.Duration // time until the other callers leave; 0: they never do
		waits        time.Duration
	}{
		"no caller was ever inside":               {timeout: time.Minute},
		"all callers left before":                 {enter: 3, leave: 3, timeout: time.Minute},
		"a caller leaves after a second":          {enter: 1, leaveAfter: time.Second, timeout: time.Minute, waits: time.Second},
		"several callers leave in time":           {enter: 3, leave: 1, leaveAfter: time.Second, timeout: time.Minute, waits: time.Second},
		"a caller stays until the context ends":   {enter: 2, leave: 1, timeout: time.Minute, waits: time.Minute},
		"a caller leaves after the context ended": {enter: 1, leaveAfter: time.Hour, timeout: time.Minute, waits: time.Minute},
		"the context had ended before":            {enter: 1, timeout: 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var i inflight
				for range test.enter {
					if !i.enter() {
						t.Fatal("enter before the end = false, want true")
					}
				}
				for range test.leave {
					i.leave()
				}
				var leaving sync.WaitGroup
				defer leaving.Wait()
				if test.leaveAfter > 0 {
					leaving.Go(func() {
						time.Sleep(test.leaveAfter) // in the bubble's fake time
						for range test.enter - test.leave {
							i.leave()
						}
					})
				}
				ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
				defer cancel()
				begin := time.Now()
				i.end(ctx)
				if waited := time.Since(begin); waited != test.waits {
					t.Errorf("end waited %v, want %v", waited, test.waits)
				}
				if i.enter() {
					t.Error("enter after the end = true, want false")
				}
			})
		})
	}
}

// While the end is under way no caller is let in, and every earlier caller is waited for.
func TestEndWaitsForEveryAdmittedCaller(t *testing.T) {
	var (
		i       inflight
		inside  atomic.Int64
		running sync.WaitGroup
	)
	begun := make(chan struct{}, 8)
	for range cap(begun) {
		running.Go(func() {
			for first := true; i.enter(); first = false {
				inside.Add(1)
				if first {
					begun <- struct{}{}
				}
				inside.Add(-1)
				i.leave()
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	i.end(within(t))
	if n := inside.Load(); n != 0 {
		t.Errorf("callers inside after the end = %d, want none", n)
	}
	running.Wait()
}
