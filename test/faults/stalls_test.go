package faults

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// A machine may stall as a whole: its processors or its disk serve others. The test
// measures how long things take, so it must know how long the machine stalled.
const (
	// probeEvery is how often the disk is probed.
	probeEvery = 50 * time.Millisecond
	// leastStall is the shortest stall that counts.
	leastStall = 20 * time.Millisecond
)

// openProbe creates a file on the disk that the instances write to.
func (l *load) openProbe() {
	l.t.Helper()
	probe, err := os.Create(filepath.Join(l.t.TempDir(), "probe"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = probe.Close() })
	l.probe = probe
}

// probeDisk records stalls of the disk, which others may use as well.
func (l *load) probeDisk(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		_, err := l.probe.WriteAt([]byte("x"), 0)
		if err == nil {
			err = l.probe.Sync()
		}
		if err == nil {
			l.stalled(began)
		}
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery):
		}
	}
}

// stalled records a stall from since until now, unless it is shorter than leastStall.
func (l *load) stalled(since time.Time) {
	now := time.Now()
	if now.Sub(since) < leastStall {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalls = append(l.stalls, span{since, now})
}

// stall returns the longest time within a span for which the machine stalled.
func (e *evidence) stall(within span) time.Duration {
	longest := time.Duration(0)
	for _, s := range e.stalls {
		if s.from.Before(within.from) {
			s.from = within.from
		}
		if s.to.After(within.to) {
			s.to = within.to
		}
		longest = max(longest, s.length())
	}
	return longest
}
