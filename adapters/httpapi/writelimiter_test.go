package httpapi_test

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
)

// writerFunc implements io.Writer with a function.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestNoMoreLongBodiesAreCopiedAtOnceThanThereAreProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		write := httpapi.NewWriteLimiter()
		var copying, most atomic.Int64
		body := bytes.Repeat([]byte("0123456789"), 100_000)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				var got bytes.Buffer
				err := write(writerFunc(func(b []byte) (int, error) {
					if len(b) == httpapi.LimitedWrite {
						now := copying.Add(1)
						defer copying.Add(-1)
						most.Store(max(most.Load(), now))
					}
					<-time.After(time.Millisecond)
					return got.Write(b)
				}), body)
				if err != nil || !bytes.Equal(got.Bytes(), body) {
					t.Errorf("bytes that arrived = %d of %d: %v", got.Len(), len(body), err)
				}
			})
		}
		all.Wait()
		if want := int64(runtime.GOMAXPROCS(0)); most.Load() != want {
			t.Errorf("concurrent copies = %d, want %d", most.Load(), want)
		}
	})
}

func TestASlowSocketHoldsUpNobodyElsesLongBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		write := httpapi.NewWriteLimiter()
		body := make([]byte, 1<<20)
		stuck := make(chan struct{})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				err := write(writerFunc(func([]byte) (int, error) {
					<-stuck
					return 0, io.ErrClosedPipe
				}), body)
				if err != io.ErrClosedPipe {
					t.Errorf("error = %v, want %v", err, io.ErrClosedPipe)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if err := write(io.Discard, body); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the write took %v, want at most 1s", took)
		}
		close(stuck)
		all.Wait()
		// The slow sockets have given their slots back.
		if err := write(io.Discard, body); err != nil {
			t.Error(err)
		}
	})
}
