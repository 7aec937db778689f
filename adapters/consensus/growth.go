package consensus

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// minGrowth is how many bytes of entries are not worth a snapshot, however small the
	// snapshot would be.
	minGrowth = 1 << 20
	// growthFactor is how many times the size of the last snapshot the log must grow by:
	// its inverse bounds the share of snapshots in what is written to the disk.
	growthFactor = 2
	// minTrailing is how many bytes of entries may stay behind a snapshot, however small
	// the snapshot is.
	minTrailing = 2 << 20
	// entryOverhead is what an entry takes beside its data.
	entryOverhead = 64
	// snapshotPause is the time between two tries to make a snapshot.
	snapshotPause = 2 * time.Second
)

// logGrowth measures how far the log has grown since the last snapshot. Raft checks that
// every SnapshotInterval, and counts entries, not bytes: at full speed there may be hundreds
// of thousands of entries by then. So a snapshot is also due when the entries since the
// last one take more than twice its size. Safe for concurrent use.
type logGrowth struct {
	bytes, entries atomic.Int64  // appended since the last snapshot began
	snapshotSize   atomic.Int64  // of the last snapshot, in bytes
	entrySize      atomic.Int64  // average of the entries that the last snapshot covers; 0 if unknown
	due            chan struct{} // holds a token when a snapshot may be due
}

func newLogGrowth() *logGrowth {
	return &logGrowth{due: make(chan struct{}, 1)}
}

func (g *logGrowth) appended(entries []*raft.Log) {
	size := 0
	for _, entry := range entries {
		size += len(entry.Data) + len(entry.Extensions) + entryOverhead
	}
	g.entries.Add(int64(len(entries)))
	g.bytes.Add(int64(size))
	g.signalIfDue()
}

// isDue reports whether a snapshot is due.
func (g *logGrowth) isDue() bool {
	return g.bytes.Load() >= max(minGrowth, growthFactor*g.snapshotSize.Load())
}

// trailingLogs returns how many entries, up to most, to keep behind the next snapshot. A
// follower that needs more of them is sent the snapshot, which is smaller.
func (g *logGrowth) trailingLogs(most uint64) uint64 {
	entries := g.entries.Load()
	if entries == 0 {
		return most
	}
	return min(most, g.affordable(g.bytes.Load()/entries))
}

// affordableTrailing returns how many entries at the end of the log may be kept for a
// follower that needs them.
func (g *logGrowth) affordableTrailing() uint64 {
	average := g.entrySize.Load()
	if average == 0 {
		return 0 // their size is unknown
	}
	return g.affordable(average)
}

// affordable returns how many entries of the given size may stay behind a snapshot.
func (g *logGrowth) affordable(size int64) uint64 {
	return uint64(max(minTrailing, growthFactor*g.snapshotSize.Load()) / max(1, size))
}

// signalIfDue wakes up makeDueSnapshots if a snapshot is due.
func (g *logGrowth) signalIfDue() {
	if !g.isDue() {
		return
	}
	select {
	case g.due <- struct{}{}:
	default:
	}
}

// growthMark is what logGrowth has counted at one moment.
type growthMark struct{ bytes, entries int64 }

func (g *logGrowth) mark() growthMark { return growthMark{g.bytes.Load(), g.entries.Load()} }

// snapshotTaken takes note of a complete snapshot of size bytes, which was begun at a mark.
func (g *logGrowth) snapshotTaken(begun growthMark, size int64) {
	subtractUpTo(&g.bytes, begun.bytes)
	subtractUpTo(&g.entries, begun.entries)
	g.snapshotSize.Store(size)
	if begun.entries > 0 {
		g.entrySize.Store(begun.bytes / begun.entries)
	}
}

// subtractUpTo subtracts by from counter, but not below 0: two snapshots may be written at
// the same time, one's own and a leader's, and both cover the entries before them.
func subtractUpTo(counter *atomic.Int64, by int64) {
	for now := counter.Load(); !counter.CompareAndSwap(now, max(0, now-by)); now = counter.Load() {
	}
}

// sizeRecorder is a snapshot store that tells logGrowth the sizes of its snapshots.
type sizeRecorder struct {
	raft.SnapshotStore
	growth *logGrowth
}

// newSizeRecorder tells g the size of the latest snapshot: otherwise a restarted instance
// would write a whole snapshot for a few new entries.
func newSizeRecorder(snapshots raft.SnapshotStore, g *logGrowth) (sizeRecorder, error) {
	present, err := snapshots.List()
	if err == nil && len(present) > 0 {
		g.snapshotTaken(growthMark{}, present[0].Size)
	}
	return sizeRecorder{snapshots, g}, err
}

// Create implements raft.SnapshotStore.
func (m sizeRecorder) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := m.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	return &sizeSink{SnapshotSink: sink, growth: m.growth, begun: m.growth.mark()}, nil
}

type sizeSink struct {
	raft.SnapshotSink
	growth *logGrowth
	begun  growthMark
	size   int64
	ended  bool // raft closes what is closed, and cancels it
}

// Write implements io.Writer.
func (s *sizeSink) Write(p []byte) (int, error) {
	n, err := s.SnapshotSink.Write(p)
	s.size += int64(n)
	return n, err
}

// Close implements io.Closer.
func (s *sizeSink) Close() error {
	err := s.SnapshotSink.Close()
	if err == nil && !s.ended {
		s.growth.snapshotTaken(s.begun, s.size)
	}
	s.ended = true
	return err
}

// Cancel implements raft.SnapshotSink.
func (s *sizeSink) Cancel() error {
	s.ended = true
	return s.SnapshotSink.Cancel()
}

// makeDueSnapshots has raft make a snapshot whenever one is due, until this instance is
// closed. Raft truncates the log after each, and logs its own failures.
func (n *Node) makeDueSnapshots() {
	for {
		select {
		case <-n.growth.due:
		case <-n.running.Done():
			return
		}
		if !n.growth.isDue() {
			continue // the token is from before the last snapshot was complete
		}
		err := n.retune(func(timing *raft.ReloadableConfig) {
			timing.TrailingLogs = n.growth.trailingLogs(n.config.Timing.TrailingLogs)
		})
		if err == nil {
			err = n.makeSnapshot()
		}
		if err == nil || errors.Is(err, raft.ErrNothingNewToSnapshot) {
			continue
		}
		if !n.sleep(snapshotPause) {
			return
		}
		n.growth.signalIfDue()
	}
}

// makeSnapshot has raft make a snapshot. Raft 1.7.3 never answers if its snapshot goroutine
// has ended, as happens when this instance is closed while its disk fails (see StopRetrying of
// disk.Store). Close must not wait for that, so a goroutine of its own waits for raft.
func (n *Node) makeSnapshot() error {
	made := make(chan error, 1)
	go func() { made <- n.raft.Snapshot().Error() }()
	select {
	case err := <-made:
		return err
	case <-n.running.Done():
		return n.running.Err()
	}
}
