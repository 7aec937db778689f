package consensus

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

// async runs do in a goroutine and returns the channel with its result.
func async[T any](do func() T) <-chan T {
	ended := make(chan T, 1)
	go func() { ended <- do() }()
	return ended
}

func noop(index uint64) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Type: raft.LogNoop}
}

// leadingLog returns the log of a leader that needs others to commit, on a store with the
// first two entries.
func leadingLog(t *testing.T) (*disk.Store, *logstoretest.Faulty) {
	t.Helper()
	store := logstoretest.NewFaulty(t, memory.Open)
	if err := store.StoreLogs([]*raft.Log{noop(1), noop(2)}); err != nil {
		t.Fatal(err)
	}
	log := disk.New(store, disk.Config{
		HangAfter:    time.Second,
		MaxBatch:     maxBatch,
		Logger:       slog.New(slog.DiscardHandler),
		CheckPresent: func() error { return nil },
		Verify:       verifyLog,
		Leads:        func() bool { return true },
		NeedsOthers:  func() bool { return true },
		Appended:     func([]*raft.Log) {},
		Changed:      func() {},
	})
	log.RaftStarted()
	return log, store
}

// mustAppendAtOnce stores an entry in a bubble, and fails the test if that waits for the disk.
func mustAppendAtOnce(t *testing.T, log *disk.Store, index uint64) {
	t.Helper()
	ended := async(func() error { return log.StoreLog(noop(index)) })
	synctest.Wait()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatal("the append waits for the disk")
	}
}

// accepting is a transport to a follower that accepts everything.
type accepting struct{ *incoming }

func (accepting) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	*response = raft.AppendEntriesResponse{Term: request.Term, Success: true}
	return nil
}

func TestAnAcknowledgementWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := leadingLog(t)
		defer func() {
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		}()
		var taken []uint64
		w := newInterceptor(accepting{&incoming{rpcs: make(chan raft.RPC)}}, interceptorConfig{
			evidence: newEvidence(),
			term:     func() uint64 { return 1 },
			acknowledged: func(id raft.ServerID, request *raft.AppendEntriesRequest) {
				if n := len(request.Entries); n > 0 && id == "2" {
					taken = append(taken, request.Entries[n-1].Index)
				}
			},
			log: log,
		})
		send := func(entries ...*raft.Log) error {
			return w.AppendEntries("2", "b:1", &raft.AppendEntriesRequest{Term: 1, Entries: entries}, &raft.AppendEntriesResponse{})
		}
		release := store.Hang()
		mustAppendAtOnce(t, log, 3)
		if err := errors.Join(send(), send(noop(1), noop(2))); err != nil {
			t.Errorf("heartbeat and entries that are stored already = %v, want an answer at once", err)
		}
		moment := w.config.evidence.begin()
		sent := async(func() error { return send(noop(2), noop(3)) })
		synctest.Wait()
		if len(sent) > 0 {
			t.Error("the acknowledgement did not wait for the disk")
		}
		if !w.config.evidence.since("2", 1, moment) {
			t.Error("the acknowledgement does not count as contact yet, so a read would wait for the disk")
		}
		if !slices.Equal(taken, []uint64{2, 3}) {
			t.Errorf("entries reported as stored = %d, want 2 and 3", taken)
		}
		release()
		if err := <-sent; err != nil {
			t.Error(err)
		}

		release = store.Hang()
		defer release()
		mustAppendAtOnce(t, log, 4)
		sent = async(func() error { return send(noop(4)) })
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-sent; err == nil {
			t.Error("the entry is acknowledged when the instance is closed")
		}
	})
}

// The followers have the entry, but it must not be committed before the leader has stored
// it.
func TestAnEntryThatTheLeaderHasNotStoredIsNotCommitted(t *testing.T) {
	var stores []*logstoretest.Faulty
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		store := logstoretest.NewFaulty(t, memory.Open)
		stores = append(stores, store)
		config.open = func(string, *slog.Logger) (logstore.Store, error) { return store, nil }
		config.backend = "memory"
		config.timing = func(timing *Timing) { timing.ElectionTimeout = patience } // the disk may hang for that long
	})
	leader := cluster[0]
	register(t, leader, "before")
	last := leader.raft.LastIndex()
	release := stores[0].Hang()
	t.Cleanup(release)
	waiting := proposeAsync(t, leader, "waiting")
	for _, follower := range cluster[1:] {
		until(t, follower.config.ID+" has the entry", func() bool { return follower.raft.LastIndex() > last })
	}
	for range 20 { // round trips, in which the followers acknowledge the entry
		if _, err := leader.Read(within(t)); err != nil {
			t.Error(err)
		}
	}
	for _, i := range cluster {
		if committed := i.raft.CommitIndex(); committed > last {
			t.Errorf("%s has committed entry %d, which the leader has not stored", i.config.ID, committed)
		}
	}
	if len(waiting) > 0 {
		t.Error("the write was acknowledged before the leader stored it")
	}
	release()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	mustHold(t, mustReadHere(t, leader), "before", "waiting")
}
