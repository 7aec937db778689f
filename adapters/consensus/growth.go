package consensus

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// leastGrowth is how many bytes of entries are not worth a snapshot, however
	// small that would be.
	leastGrowth = 1 << 20
	// growthFactor bounds by its inverse the share of what is written to the disk
	// that snapshots are.
	growthFactor = 2
	// leastTrailing is how many bytes of entries may stay behind a snapshot, however
	// small that is.
	leastTrailing = 2 << 20
	// entryOverhead is what an entry takes beside its data.
	entryOverhead = 64
	// snapshotPause is the time between two tries to make a snapshot.
	snapshotPause = 2 * time.Second
)

// growth is how far the log has grown since the last snapshot. Raft looks for that
// every SnapshotInterval, and counts entries: at full speed there may be hundreds of
// thousands of them by then, whatever they take. So a snapshot is due, too, when
// the entries since the last one take more than that did twice. Safe for concurrent
// use.
type growth struct {
	bytes, entries atomic.Int64  // appended since the last snapshot began
	snapshot       atomic.Int64  // what that takes
	average        atomic.Int64  // what an entry took that the last snapshot covers
	due            chan struct{} // holds a token when one may be due
}

func newGrowth() *growth {
	return &growth{due: make(chan struct{}, 1)}
}

func (g *growth) appended(entries []*raft.Log) {
	size := 0
	for _, entry := range entries {
		size += len(entry.Data) + len(entry.Extensions) + entryOverhead
	}
	g.entries.Add(int64(len(entries)))
	g.bytes.Add(int64(size))
	g.demand()
}

// enough says whether a snapshot is due.
func (g *growth) enough() bool {
	return g.bytes.Load() >= max(leastGrowth, growthFactor*g.snapshot.Load())
}

// trailing is how many entries, of so many at most, are worth keeping behind the
// next snapshot: who needs more of them is sent the snapshot, which is less.
func (g *growth) trailing(most uint64) uint64 {
	entries := g.entries.Load()
	if entries == 0 {
		return most
	}
	return min(most, g.affordable(g.bytes.Load()/entries))
}

// worth is how many entries at the end of the log take no more than is worth keeping
// for somebody who needs them.
func (g *growth) worth() uint64 {
	average := g.average.Load()
	if average == 0 {
		return 0 // nobody knows what they take
	}
	return g.affordable(average)
}

// affordable is how many entries of a size take no more than may stay behind a snapshot.
func (g *growth) affordable(size int64) uint64 {
	return uint64(max(leastTrailing, growthFactor*g.snapshot.Load()) / max(1, size))
}

// demand wakes up who makes snapshots, if one is due.
func (g *growth) demand() {
	if !g.enough() {
		return
	}
	select {
	case g.due <- struct{}{}:
	default:
	}
}

// mark is how far the log has grown.
type mark struct{ bytes, entries int64 }

func (g *growth) mark() mark { return mark{g.bytes.Load(), g.entries.Load()} }

// covered is told that a snapshot of size is complete, which began at a mark.
func (g *growth) covered(begun mark, size int64) {
	reduce(&g.bytes, begun.bytes)
	reduce(&g.entries, begun.entries)
	g.snapshot.Store(size)
	if begun.entries > 0 {
		g.average.Store(begun.bytes / begun.entries)
	}
}

// reduce takes no more from a counter than it has: of two snapshots that are made at the same
// time, one of which is a leader's, both cover what was appended before.
func reduce(counter *atomic.Int64, by int64) {
	for now := counter.Load(); !counter.CompareAndSwap(now, max(0, now-by)); now = counter.Load() {
	}
}

// measured is a snapshot store that tells growth of what it stores.
type measured struct {
	raft.SnapshotStore
	growth *growth
}

// newMeasured tells g of the snapshot that there is: without it an instance that
// was restarted would make another one of all it has for a few entries.
func newMeasured(snapshots raft.SnapshotStore, g *growth) (measured, error) {
	present, err := snapshots.List()
	if err == nil && len(present) > 0 {
		g.covered(mark{}, present[0].Size)
	}
	return measured{snapshots, g}, err
}

// Create implements raft.SnapshotStore.
func (m measured) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := m.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	return &measuredSink{SnapshotSink: sink, growth: m.growth, begun: m.growth.mark()}, nil
}

type measuredSink struct {
	raft.SnapshotSink
	growth *growth
	begun  mark
	size   int64
	ended  bool // raft closes what is closed, and cancels it
}

// Write implements io.Writer.
func (s *measuredSink) Write(p []byte) (int, error) {
	n, err := s.SnapshotSink.Write(p)
	s.size += int64(n)
	return n, err
}

// Close implements io.Closer.
func (s *measuredSink) Close() error {
	err := s.SnapshotSink.Close()
	if err == nil && !s.ended {
		s.growth.covered(s.begun, s.size)
	}
	s.ended = true
	return err
}

// Cancel implements raft.SnapshotSink.
func (s *measuredSink) Cancel() error {
	s.ended = true
	return s.SnapshotSink.Cancel()
}

// cutLog makes the snapshots that are due. Raft cuts the log behind each, and logs
// what it could not do.
func (n *Node) cutLog() {
	for {
		select {
		case <-n.growth.due:
		case <-n.running.Done():
			return
		}
		if !n.growth.enough() {
			continue // it was asked for while the last one was being made
		}
		err := n.retune(func(timing *raft.ReloadableConfig) {
			timing.TrailingLogs = n.growth.trailing(n.config.Timing.TrailingLogs)
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
		n.growth.demand()
	}
}

// makeSnapshot has raft make one. Raft 1.7.3 gives no answer where the goroutine that makes
// snapshots has ended, as it does when this instance is closed while its disk refuses (see
// disk.again). Whoever asked raft waits for ever then, and Close must not wait for that.
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
