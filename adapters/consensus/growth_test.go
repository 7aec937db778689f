package consensus

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/wal"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// propose makes many concurrent proposals, each with this many registrations of one of a
// hundred nodes.
func propose(t *testing.T, i *instance, proposals, each int) {
	t.Helper()
	var next atomic.Int64
	var working sync.WaitGroup
	for range 64 {
		working.Go(func() {
			for n := next.Add(1); n <= int64(proposals) && !t.Failed(); n = next.Add(1) {
				commands := make([]domain.Command, each)
				for at := range commands {
					id := fmt.Sprintf("node-%d", (int(n)*each+at)%100)
					weight := int(n)*each + at
					node, err := domain.NewCacheNode(domain.NodeSpec{ID: id, Address: id + ".example:11211", Weight: &weight})
					if err != nil {
						t.Error(err)
						return
					}
					commands[at] = domain.Register{Node: node}
				}
				if _, err := i.Propose(within(t), domain.Batch{Commands: commands}); err != nil {
					t.Errorf("Propose of proposal %d = %v, want success", n, err)
				}
			}
		})
	}
	working.Wait()
}

func TestTheLogOfManyUpdatesIsCut(t *testing.T) {
	backends := []logstore.Backend{{Name: "bolt", Open: bolt.Open}, {Name: "badger", Open: badger.Open}, {Name: "wal", Open: wal.Open}}
	for _, backend := range backends {
		t.Run(backend.Name, func(t *testing.T) {
			i := start(t, instanceConfig{
				id: "a", directory: t.TempDir(), bootstrap: true, open: backend.Open, backend: backend.Name,
				timing: func(timing *Timing) { timing.TrailingLogs = 10240 },
			})
			i.eventually(t, "leading", leading)
			propose(t, i, 2000, 64)
			until(t, "the log has been cut", func() bool {
				first, err := i.store.FirstIndex()
				return err == nil && first > 1
			})
			const most = 15_000_000
			until(t, "the directory has become small", func() bool {
				log, snapshots := i.directory.Usage()
				return log+snapshots < most
			})
		})
	}
}

func TestASnapshotIsDueByTheSizeOfTheLog(t *testing.T) {
	entries := func(count, size int) []*raft.Log {
		all := make([]*raft.Log, count)
		for i := range all {
			all[i] = &raft.Log{Data: make([]byte, size-entryOverhead)}
		}
		return all
	}
	g := newLogGrowth()
	g.appended(entries(1, minGrowth-entryOverhead))
	if g.isDue() {
		t.Error("a snapshot is due before minGrowth")
	}
	g.appended(entries(1, entryOverhead))
	if !g.isDue() || len(g.due) == 0 {
		t.Error("no snapshot is due after minGrowth")
	}
	begun := g.mark()
	g.appended(entries(1, 100))
	g.snapshotTaken(begun, minGrowth)
	g.appended(entries(1, growthFactor*minGrowth-101))
	if g.isDue() {
		t.Error("a snapshot is due before the log has grown by growthFactor")
	}
	g.appended(entries(1, entryOverhead))
	if !g.isDue() || len(g.due) == 0 {
		t.Error("no snapshot is due although the log has grown by growthFactor")
	}
}

// The instance makes one snapshot, and installs the leader's at the same time.
func TestTwoSnapshotsAtTheSameTimeCoverTheSameEntries(t *testing.T) {
	g := newLogGrowth()
	recorder, err := newSizeRecorder(&snapshots.Memory{}, g)
	if err != nil {
		t.Fatal(err)
	}
	large := &raft.Log{Data: make([]byte, minTrailing/8-entryOverhead)}
	snapshot := func() raft.SnapshotSink {
		sink, err := recorder.Create(raft.SnapshotVersionMax, 1, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sink
	}
	g.appended([]*raft.Log{large, large})
	one, other := snapshot(), snapshot()
	if err := errors.Join(one.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	if got := g.mark(); got != (growthMark{}) {
		t.Errorf("growth since the snapshots = %+v, want none", got)
	}
	g.appended([]*raft.Log{{}, {}, {}})
	if err := snapshot().Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := g.affordableTrailing(), uint64(minTrailing/entryOverhead); got != want {
		t.Errorf("affordableTrailing for small entries = %d, want %d", got, want)
	}
}

func TestASnapshotFromBeforeTheStartIsKnown(t *testing.T) {
	kept := &snapshots.Memory{}
	sink, err := kept.Create(raft.SnapshotVersionMax, 1, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sink.Write(make([]byte, minGrowth))
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
	g := newLogGrowth()
	if _, err := newSizeRecorder(kept, g); err != nil {
		t.Fatal(err)
	}
	g.appended([]*raft.Log{{Data: make([]byte, minGrowth)}})
	if g.isDue() {
		t.Error("a snapshot is due although the log has grown by less than growthFactor times the last one")
	}
}

func TestFewLargeEntriesStayBehindASnapshot(t *testing.T) {
	const most = 10_000
	tests := map[string]struct {
		count, size int
		snapshot    int64
		want        uint64
	}{
		"no entry was seen":                     {want: most},
		"small entries":                         {count: 1000, size: entryOverhead, want: most},
		"large entries":                         {count: 4, size: minTrailing / 8, want: 8},
		"large entries behind a large snapshot": {count: 4, size: minTrailing / 8, snapshot: minTrailing, want: 16},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := newLogGrowth()
			g.snapshotTaken(g.mark(), test.snapshot)
			for range test.count {
				g.appended([]*raft.Log{{Data: make([]byte, test.size-entryOverhead)}})
			}
			if got := g.trailingLogs(most); got != test.want {
				t.Errorf("trailingLogs = %d, want %d", got, test.want)
			}
		})
	}
}
