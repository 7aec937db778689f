package consensus

import (
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// sending is a transport on which snapshots take their time: each is told when it is
// there, and the sender hears of that when it may go on.
type sending struct {
	transport
	arrived chan<- raft.ServerID
	proceed <-chan struct{}
	sent    *atomic.Int64
}

func (s sending) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := s.transport.InstallSnapshot(id, to, args, resp, data)
	if err != nil || !resp.Success {
		return err // who is starting takes none yet
	}
	s.sent.Add(1)
	s.arrived <- id
	<-s.proceed
	return err
}

// While a snapshot is on the way another one is made, behind which the log would hold
// nothing.
func TestTheLeaderKeepsWhatComesBehindASnapshotThatItSends(t *testing.T) {
	arrived, proceed := make(chan raft.ServerID, 16), make(chan struct{})
	var sent atomic.Int64
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = keepNoLog
		if config.bootstrap {
			config.hooks.transport = func(inner transport) transport {
				return sending{inner, arrived, proceed, &sent}
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
		t.Fatalf("the log begins with entry %d: the test shows nothing", kept())
	}
	late = restart(t, late, keepNoLog)
	receive(t, arrived, "it is sent no snapshot")
	snapshot := leader.raft.LastIndex()
	fill("meanwhile")
	fill("and-again")
	if first := kept(); first != snapshot+1 {
		t.Errorf("the log begins with entry %d, and the snapshot ends with %d", first, snapshot)
	}
	close(proceed)
	change := register(t, leader, "after")
	late.waitForRevision(t, change.Revision)
	if n := sent.Load(); n != 1 {
		t.Errorf("snapshots sent = %d, want 1", n)
	}
	// Nothing is retained for it any more.
	until(t, "the log is cut", func() bool {
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
		// up to which the log may be cut, of up to 100, in term 7, once and once more,
		// where entries from 50 on may be retained
		cut, again uint64
	}{
		"nothing":                        {func(*retention) {}, 100, 100},
		"what comes behind a snapshot":   {func(r *retention) { retain(r, "a", 7, 80) }, 80, 80},
		"what comes behind the first":    {func(r *retention) { retain(r, "a", 7, 80); retain(r, "b", 7, 60) }, 60, 60},
		"no more than is affordable":     {func(r *retention) { retain(r, "a", 7, 80); retain(r, "b", 7, 49) }, 80, 80},
		"all that is affordable":         {func(r *retention) { retain(r, "a", 7, 50) }, 50, 50},
		"nothing of an earlier term":     {func(r *retention) { retain(r, "a", 6, 80) }, 100, 100},
		"nothing to who is sent another": {func(r *retention) { retain(r, "a", 7, 60); retain(r, "a", 7, 80) }, 80, 80},
		"nothing to who could not be":    {func(r *retention) { retain(r, "a", 7, 80); r.release("a") }, 100, 100},
		"once more to who has caught up": {func(r *retention) { retain(r, "a", 7, 80); r.releaseAfterCut("a") }, 80, 100},
		"nothing to who had nothing":     {func(r *retention) { r.releaseAfterCut("a") }, 100, 100},
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

// Who is sent a snapshot for hours does not keep the log from being cut.
func TestALeaderRetainsNoMoreThanItCanAfford(t *testing.T) {
	for name, test := range map[string]struct {
		leads            bool
		base, affordable uint64 // the log has entries 1 to 10, and is to be cut up to 9
		first            uint64 // of what is left
	}{
		"all that it needs":                {leads: true, base: 6, affordable: 4, first: 7},
		"nothing if that is too much":      {leads: true, base: 5, affordable: 4, first: 10},
		"all of a log that is short":       {leads: true, base: 1, affordable: 99, first: 2},
		"nothing if it can afford nothing": {leads: true, base: 6, first: 10},
		"nothing as a follower":            {base: 6, affordable: 4, first: 10},
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
				t.Errorf("the log begins with entry %d, error %v, want %d", first, err, test.first)
			}
		})
	}
}

// taker is a transport to who takes a snapshot, or does not.
type taker struct {
	transport
	success bool
	err     error
}

func (a taker) InstallSnapshot(_ raft.ServerID, _ raft.ServerAddress, _ *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, _ io.Reader) error {
	resp.Success = a.success
	return a.err
}

func TestEntriesAreRetainedOnlyForAFollowerThatTookTheSnapshot(t *testing.T) {
	for name, test := range map[string]struct {
		to  taker
		cut uint64
	}{
		"who has taken it":                {taker{success: true}, 80},
		"who has not taken it":            {taker{}, 100},
		"to whom it could not be sent":    {taker{err: raft.ErrTransportShutdown}, 100},
		"who took it, and did not say so": {taker{success: true, err: raft.ErrTransportShutdown}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			w := &interceptor{transport: test.to, config: interceptorConfig{retention: newRetention()}}
			request := &raft.InstallSnapshotRequest{Term: 7, LastLogIndex: 80, LastLogTerm: 6}
			if err := w.InstallSnapshot("a", "a:1", request, &raft.InstallSnapshotResponse{}, nil); err != test.to.err {
				t.Error(err)
			}
			if got := w.config.retention.limit(7, 100, 50); got != test.cut {
				t.Errorf("the log is cut up to %d, not %d", got, test.cut)
			}
		})
	}
}

// What a snapshot ends with is known by its index and its term, and must not be sent as
// if it were the entry.
func TestTheBaseOfWhatIsRetainedIsFoundOnlyBehindNothing(t *testing.T) {
	for name, test := range map[string]struct {
		stored []uint64
		bases  []uint64
		index  uint64
		found  bool
	}{
		"what is retained":            {bases: []uint64{7}, index: 7, found: true},
		"before what is stored":       {stored: []uint64{8}, bases: []uint64{7}, index: 7, found: true},
		"what could be sent":          {stored: []uint64{6}, bases: []uint64{7}, index: 7},
		"what could be sent, too":     {bases: []uint64{6, 7}, index: 7},
		"the first of two":            {bases: []uint64{6, 7}, index: 6, found: true},
		"what is retained for nobody": {bases: []uint64{7}, index: 8},
		"what is stored, as it is":    {stored: []uint64{7}, bases: []uint64{7}, index: 7, found: true},
	} {
		t.Run(name, func(t *testing.T) {
			store := storeOf(t, 2, test.stored...)
			log := retainingLog{LogStore: store, retention: newRetention()}
			for n, index := range test.bases {
				log.retention.retain(raft.ServerID(fmt.Sprint(n)), &raft.InstallSnapshotRequest{Term: 7, LastLogIndex: index, LastLogTerm: 6})
			}
			if err := log.GetLog(test.index, new(raft.Log)); (err == nil) != test.found {
				t.Errorf("entry %d: %v", test.index, err)
			}
		})
	}
}
