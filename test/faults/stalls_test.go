package faults

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// A machine may stand still for all: its processors are given to others, or its disk
// is. How long that was is for the test to know, which measures how long things take.
const (
	// probeEvery is how often it is looked whether the disk stands still.
	probeEvery = 50 * time.Millisecond
	// leastStall is how long the machine must stand still for that to matter.
	leastStall = 20 * time.Millisecond
)

// openProbe makes a file on the disk that the instances write to.
func (l *load) openProbe() {
	l.t.Helper()
	probe, err := os.Create(filepath.Join(l.t.TempDir(), "probe"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = probe.Close() })
	l.probe = probe
}

// probeDisk notes how long the disk takes, which others use as well.
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

// stalled notes that the test waited since then for what takes no time, if it did.
func (l *load) stalled(since time.Time) {
	now := time.Now()
	if now.Sub(since) < leastStall {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalls = append(l.stalls, span{since, now})
}

// stall is the longest time within a span for which the machine stood still.
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
