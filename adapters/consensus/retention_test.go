package consensus

import (
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// delayedSnapshots is a transport that delivers snapshots, reports each on arrived, and
// returns the answer to the sender only when proceed is closed.
type delayedSnapshots struct {
	transport
	arrived chan<- raft.ServerID
	proceed <-chan struct{}
	sent    *atomic.Int64
}

func (s delayedSnapshots) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := s.transport.InstallSnapshot(id, to, args, resp, data)
	if err != nil || !resp.Success {
		return err // a starting instance takes no snapshot yet
	}
	s.sent.Add(1)
	s.arrived <- id
	<-s.proceed
	return err
}

// While a snapshot is being sent, another one is made, and nothing is to stay in the log
// behind that.
func TestTheLeaderKeepsTheEntriesBehindASnapshotThatItSends(t *testing.T) {
	arrived, proceed := make(chan raft.ServerID, 16), make(chan struct{})
	var sent atomic.Int64
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = keepNoLog
		if config.bootstrap {
			config.hooks.transport = func(inner transport) transport {
				return delayedSnapshots{inner, arrived, proceed, &sent}
			}
		}
	})
	leader, late := cluster[0], cluster[2]
	fill := func(name string) {
		t.Helper()
		for n := range 20 {
			register(t, leader, fmt.Sprintf("%s-%d", name, n))
		}
		if err := leader.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	kept := func() uint64 {
		t.Helper()
		first, err := leader.store.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		return first
	}
	late.stop(t)
	fill("before")
	if kept() != 0 {
		t.Fatalf("FirstIndex = %d, want 0: without an empty log the test shows nothing", kept())
	}
	late = restart(t, late, keepNoLog)
	receive(t, arrived, "the late instance is sent no snapshot")
	snapshot := leader.raft.LastIndex()
	fill("meanwhile")
	fill("and-again")
	if first := kept(); first != snapshot+1 {
		t.Errorf("FirstIndex = %d, want the entry behind the snapshot, which ends with %d", first, snapshot)
	}
	close(proceed)
	change := register(t, leader, "after")
	late.waitForRevision(t, change.Revision)
	if n := sent.Load(); n != 1 {
		t.Errorf("snapshots sent = %d, want 1", n)
	}
	// Nothing is retained for the follower any more.
	until(t, "the log is empty again", func() bool {
		fill("later")
		return kept() == 0
	})
}

func TestTheLogIsCutAsFarAsRetentionAllows(t *testing.T) {
	retain := func(r *retention, id raft.ServerID, term, index uint64) {
		r.retain(id, &raft.InstallSnapshotRequest{Term: term, LastLogIndex: index, LastLogTerm: term - 1})
	}
	tests := map[string]struct {
		given func(*retention)
		// the index up to which the log may be cut, when asked for 100 in term 7, with
		// entries from 50 on affordable; then the same asked again
		cut, again uint64
	}{
		"no snapshot was sent":                           {func(*retention) {}, 100, 100},
		"a snapshot was sent":                            {func(r *retention) { retain(r, "a", 7, 80) }, 80, 80},
		"two snapshots were sent":                        {func(r *retention) { retain(r, "a", 7, 80); retain(r, "b", 7, 60) }, 60, 60},
		"one of two snapshots is too old to afford":      {func(r *retention) { retain(r, "a", 7, 80); retain(r, "b", 7, 49) }, 80, 80},
		"a snapshot that is just affordable":             {func(r *retention) { retain(r, "a", 7, 50) }, 50, 50},
		"a snapshot of an earlier term":                  {func(r *retention) { retain(r, "a", 6, 80) }, 100, 100},
		"a newer snapshot was sent to the same follower": {func(r *retention) { retain(r, "a", 7, 60); retain(r, "a", 7, 80) }, 80, 80},
		"a snapshot that was not taken":                  {func(r *retention) { retain(r, "a", 7, 80); r.release("a") }, 100, 100},
		"a follower that has caught up, until one cut":   {func(r *retention) { retain(r, "a", 7, 80); r.releaseAfterCut("a") }, 80, 100},
		"a follower that was sent no snapshot":           {func(r *retention) { r.releaseAfterCut("a") }, 100, 100},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRetention()
			test.given(r)
			if got := r.limit(7, 100, 50); got != test.cut {
				t.Errorf("limit = %d, want %d", got, test.cut)
			}
			if got := r.limit(7, 100, 50); got != test.again {
				t.Errorf("next limit = %d, want %d", got, test.again)
			}
		})
	}
}

// A follower that is sent a snapshot for hours must not keep the log from being cut.
func TestALeaderRetainsNoMoreThanItCanAfford(t *testing.T) {
	for name, test := range map[string]struct {
		leads            bool
		base, affordable uint64 // the log has entries 1 to 10, and is to be cut up to 9
		first            uint64 // index that is left
	}{
		"the leader can afford what the follower needs": {leads: true, base: 6, affordable: 4, first: 7},
		"the follower needs an entry too many":          {leads: true, base: 5, affordable: 4, first: 10},
		"the follower needs nearly all of a short log":  {leads: true, base: 1, affordable: 99, first: 2},
		"the leader can afford nothing":                 {leads: true, base: 6, first: 10},
		"the instance is a follower":                    {base: 6, affordable: 4, first: 10},
	} {
		t.Run(name, func(t *testing.T) {
			log := retainingLog{
				LogStore:   storeOf(t, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
				retention:  newRetention(),
				leads:      func() (uint64, bool) { return 7, test.leads },
				affordable: func() uint64 { return test.affordable },
			}
			log.retention.retain("a", &raft.InstallSnapshotRequest{Term: 7, LastLogIndex: test.base, LastLogTerm: 6})
			if err := log.DeleteRange(1, 9); err != nil {
				t.Fatal(err)
			}
			if first, err := log.FirstIndex(); first != test.first || err != nil {
				t.Errorf("FirstIndex = %d, %v, want %d", first, err, test.first)
			}
		})
	}
}

// snapshotReceiver is a transport to a follower that takes a snapshot, or does not.
type snapshotReceiver struct {
	transport
	success bool
	err     error
}

func (a snapshotReceiver) InstallSnapshot(_ raft.ServerID, _ raft.ServerAddress, _ *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, _ io.Reader) error {
	resp.Success = a.success
	return a.err
}

func TestEntriesAreRetainedOnlyForAFollowerThatTookTheSnapshot(t *testing.T) {
	for name, test := range map[string]struct {
		to  snapshotReceiver
		cut uint64
	}{
		"the follower took the snapshot":                          {snapshotReceiver{success: true}, 80},
		"the follower did not take the snapshot":                  {snapshotReceiver{}, 100},
		"the snapshot could not be sent":                          {snapshotReceiver{err: raft.ErrTransportShutdown}, 100},
		"the follower took the snapshot, but its answer was lost": {snapshotReceiver{success: true, err: raft.ErrTransportShutdown}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			w := &interceptor{transport: test.to, config: interceptorConfig{retention: newRetention()}}
			request := &raft.InstallSnapshotRequest{Term: 7, LastLogIndex: 80, LastLogTerm: 6}
			if err := w.InstallSnapshot("a", "a:1", request, &raft.InstallSnapshotResponse{}, nil); err != test.to.err {
				t.Error(err)
			}
			if got := w.config.retention.limit(7, 100, 50); got != test.cut {
				t.Errorf("limit = %d, want %d", got, test.cut)
			}
		})
	}
}

// The last entry of a snapshot is known only by its index and term, and must not be sent as
// if it were the entry.
func TestTheBaseOfRetainedEntriesIsFoundOnlyIfNoEntryIsBeforeIt(t *testing.T) {
	for name, test := range map[string]struct {
		stored []uint64
		bases  []uint64
		index  uint64
		found  bool
	}{
		"the base, with an empty log":       {bases: []uint64{7}, index: 7, found: true},
		"the base before the log":           {stored: []uint64{8}, bases: []uint64{7}, index: 7, found: true},
		"a base behind an entry of the log": {stored: []uint64{6}, bases: []uint64{7}, index: 7},
		"a base behind another base":        {bases: []uint64{6, 7}, index: 7},
		"the first of two bases":            {bases: []uint64{6, 7}, index: 6, found: true},
		"an index without a base":           {bases: []uint64{7}, index: 8},
		"an entry that is stored":           {stored: []uint64{7}, bases: []uint64{7}, index: 7, found: true},
	} {
		t.Run(name, func(t *testing.T) {
			store := storeOf(t, 2, test.stored...)
			log := retainingLog{LogStore: store, retention: newRetention()}
			for n, index := range test.bases {
				log.retention.retain(raft.ServerID(fmt.Sprint(n)), &raft.InstallSnapshotRequest{Term: 7, LastLogIndex: index, LastLogTerm: 6})
			}
			if err := log.GetLog(test.index, new(raft.Log)); (err == nil) != test.found {
				t.Errorf("GetLog(%d) = %v, want the entry if it may be found", test.index, err)
			}
		})
	}
}
