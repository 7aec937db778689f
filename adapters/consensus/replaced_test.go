package consensus

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// spoken is a transport by which a test says to an instance what a leader would.
type spoken struct {
	transport
	rpcs chan raft.RPC
}

func (s spoken) Consumer() <-chan raft.RPC { return s.rpcs }

// say gives the answer to a command.
func (s spoken) say(t *testing.T, command any, content io.Reader) any {
	t.Helper()
	answer := make(chan raft.RPCResponse, 1)
	select {
	case s.rpcs <- raft.RPC{Command: command, Reader: content, RespChan: answer}:
	case <-within(t).Done():
		t.Fatalf("nobody takes %+v", command)
	}
	select {
	case got := <-answer:
		if got.Error != nil {
			t.Fatalf("%T is answered with %v", command, got.Error)
		}
		return got.Response
	case <-within(t).Done():
		t.Fatalf("%T is not answered", command)
	}
	return nil
}

// As the leader of this term it says all that follows.
const spokenTerm = 9

var spokenHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("leader"), Addr: []byte("leader:1")}

// append sends entries that come behind another one.
func (s spoken) append(t *testing.T, previous, previousTerm uint64, entries []*raft.Log, commit uint64) *raft.AppendEntriesResponse {
	t.Helper()
	return s.say(t, &raft.AppendEntriesRequest{
		RPCHeader: spokenHeader, Term: spokenTerm, PrevLogEntry: previous, PrevLogTerm: previousTerm, Entries: entries, LeaderCommitIndex: commit,
	}, nil).(*raft.AppendEntriesResponse)
}

// install sends a snapshot, which has to be taken.
func (s spoken) install(t *testing.T, meta *raft.SnapshotMeta, content []byte) {
	t.Helper()
	if got := s.say(t, installing(meta), bytes.NewReader(content)).(*raft.InstallSnapshotResponse); !got.Success {
		t.Fatalf("answer to a snapshot = %+v, want success", got)
	}
}

func installing(meta *raft.SnapshotMeta) *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{
		RPCHeader: spokenHeader, SnapshotVersion: meta.Version, Term: spokenTerm, LastLogIndex: meta.Index, LastLogTerm: meta.Term,
		Size: meta.Size, Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
}

// followerOf gives a blank instance that follows a test.
func followerOf(t *testing.T) (*instance, spoken) {
	t.Helper()
	return followerWith(t, nil)
}

// followerWith gives one with another state machine; nil: its own.
func followerWith(t *testing.T, fsm func(*machine) raft.FSM) (*instance, spoken) {
	t.Helper()
	leader := spoken{rpcs: make(chan raft.RPC)}
	i := start(t, instanceConfig{id: "follower", directory: t.TempDir(), hooks: testHooks{fsm: fsm, transport: func(inner transport) transport {
		leader.transport = inner
		return leader
	}}})
	return i, leader
}

func noops(first, last, term uint64) (logs []*raft.Log) {
	for index := first; index <= last; index++ {
		logs = append(logs, &raft.Log{Index: index, Term: term, Type: raft.LogNoop})
	}
	return logs
}

// someSnapshot is one of a cluster that has a node "a".
func someSnapshot(t *testing.T) (*raft.SnapshotMeta, []byte) {
	t.Helper()
	other := start(t, instanceConfig{id: "other", directory: t.TempDir(), bootstrap: true})
	leaderOf(t, []*instance{other})
	for range 5 {
		register(t, other, "a")
		register(t, other, "b")
	}
	made := other.raft.Snapshot()
	if err := made.Error(); err != nil {
		t.Fatal(err)
	}
	meta, state, err := made.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	content, err := io.ReadAll(state)
	if err != nil {
		t.Fatal(err)
	}
	return meta, content
}

// A leader that was cut off has entries that nobody committed, and is sent a snapshot of
// its successor's that ends before, with or behind them.
func TestAFollowerTakesTheEntriesBehindItsSnapshot(t *testing.T) {
	meta, content := someSnapshot(t)
	for name, last := range map[string]uint64{
		"before it":     meta.Index - 1,
		"long before":   meta.Index - 3,
		"with it":       meta.Index,
		"behind it":     meta.Index + 1,
		"far behind it": meta.Index + 5,
	} {
		t.Run("its log ends "+name, func(t *testing.T) {
			i, leader := followerOf(t)
			if got := leader.append(t, 0, 0, noops(1, last, meta.Term-1), 0); !got.Success {
				t.Fatalf("answer to a log = %+v, want success", got)
			}
			leader.install(t, meta, content)
			for index := uint64(1); index <= meta.Index; index++ {
				if err := i.store.GetLog(index, new(raft.Log)); err == nil {
					t.Errorf("entry %d, which the snapshot replaces, is in the log still", index)
				}
			}
			next := meta.Index + 1
			if got := leader.append(t, meta.Index, meta.Term, noops(next, next, spokenTerm), next); !got.Success {
				t.Errorf("answer to the entry behind the snapshot = %+v, want success", got)
			}
			if got := leader.append(t, next, spokenTerm, noops(next+1, next+2, spokenTerm), next+2); !got.Success {
				t.Errorf("answer to further entries = %+v, want success", got)
			}
			until(t, "all is applied", func() bool { return i.raft.AppliedIndex() == next+2 })
			if _, known := i.state.read().View.Node("a"); !known {
				t.Error("the state is not what the snapshot has")
			}
		})
	}
}

// forgetful is a state machine that can't be restored the first time.
type forgetful struct {
	*machine
	tried *atomic.Bool
}

func (f forgetful) Restore(snapshot io.ReadCloser) error {
	if f.tried.CompareAndSwap(false, true) {
		return errors.New("the snapshot can't be read just now")
	}
	return f.machine.Restore(snapshot)
}

// forgetfulFollower gives a blank instance that follows a test, and can't restore a
// snapshot the first time.
func forgetfulFollower(t *testing.T) (*instance, spoken) {
	t.Helper()
	return followerWith(t, func(m *machine) raft.FSM { return forgetful{m, &atomic.Bool{}} })
}

// installInVain sends a snapshot that can't be restored.
func (s spoken) installInVain(t *testing.T, meta *raft.SnapshotMeta, content []byte) {
	t.Helper()
	answer := make(chan raft.RPCResponse, 1)
	s.rpcs <- raft.RPC{Reader: bytes.NewReader(content), RespChan: answer, Command: installing(meta)}
	if got := receive(t, answer, "a snapshot is not answered"); got.Error == nil {
		t.Fatalf("answer to a snapshot that cannot be restored = %+v, want an error", got.Response)
	}
}

// The next leader may have what comes behind its log, and sends that.
func TestASnapshotThatCouldNotBeRestoredLeavesTheLog(t *testing.T) {
	const last = 5
	meta, content := someSnapshot(t)
	if meta.Index < last+2 {
		t.Fatalf("the snapshot ends with entry %d: the test shows nothing", meta.Index)
	}
	i, leader := forgetfulFollower(t)
	if got := leader.append(t, 0, 0, noops(1, last, 1), 1); !got.Success {
		t.Fatalf("answer to a log = %+v, want success", got)
	}
	leader.installInVain(t, meta, content)
	if got := leader.append(t, last, 1, noops(last+1, last+2, spokenTerm), last+2); !got.Success {
		t.Errorf("answer to the entries behind the log = %+v, want success", got)
	}
	until(t, "all is applied", func() bool { return i.raft.AppliedIndex() == last+2 })
}

// It is stored, and the state machine lacks it, and so may the log.
func TestEntriesBehindASnapshotThatCouldNotBeRestoredAreRefused(t *testing.T) {
	meta, content := someSnapshot(t)
	for name, own := range map[string]uint64{ // where its own snapshot ends, and its log
		"it has nothing":                    0,
		"its log ends just before it":       meta.Index - 1,
		"its log ends with an earlier part": meta.Index - 3,
	} {
		t.Run(name, func(t *testing.T) {
			i, leader := forgetfulFollower(t)
			if own > 0 {
				leader.append(t, 0, 0, departures(1, own, meta.Term), own)
				until(t, "all is applied", func() bool { return i.state.read().Applied == own })
				if err := errors.Join(i.raft.Snapshot().Error(), removeAll(i.logs.stored)); err != nil {
					t.Fatal(err)
				}
			}
			leader.installInVain(t, meta, content)
			next := meta.Index + 1
			if got := leader.append(t, meta.Index, meta.Term, noops(next, next, spokenTerm), 0); got.Success {
				t.Errorf("entry %d is acknowledged, but those up to %d are missing", next, meta.Index)
			}
			leader.install(t, meta, content)
			if got := leader.append(t, meta.Index, meta.Term, noops(next, next, spokenTerm), next); !got.Success {
				t.Errorf("when it has the snapshot it is sent what comes behind it, and answers %+v", got)
			}
			until(t, "all is applied", func() bool { return i.raft.AppliedIndex() == next })
			if _, known := i.state.read().View.Node("a"); !known {
				t.Error("the state is not what the snapshot has")
			}
		})
	}
}

// departures are entries that a state machine applies, and change nothing.
func departures(first, last, term uint64) []*raft.Log {
	logs := noops(first, last, term)
	for _, entry := range logs {
		entry.Type, entry.Data = raft.LogCommand, encodeEntry(domain.Deregister{ID: "nobody"})
	}
	return logs
}

// What comes behind an installed snapshot in the log is of no leader. Whoever was stopped
// before the next entry has it still, and what was committed is in the snapshot.
func TestEntriesBehindAnInstalledSnapshotAreNotRecovered(t *testing.T) {
	meta, content := someSnapshot(t)
	i, leader := followerOf(t)
	log := noops(1, meta.Index+5, meta.Term-1)
	log[meta.Index+1] = &raft.Log{Index: meta.Index + 2, Term: meta.Term - 1, Type: raft.LogCommand,
		Data: encodeEntry(domain.Register{Node: node(t, "phantom", "phantom:1")})}
	leader.append(t, 0, 0, log, 0)
	leader.install(t, meta, content)
	s := survivor{dir: i.config.Directory, id: i.config.ID, address: i.raftAddress(), backend: durableBackends[0]}
	i.stop(t)
	s.state, _ = i.State()
	report := inspectDirectory(t, s.dir, s.backend)
	if report.ReachIndex != meta.Index || report.ReachTerm != meta.Term || !report.Sound() {
		t.Errorf("it reaches entry %d of term %d, with %v; want %d of %d", report.ReachIndex, report.ReachTerm, report.Faults, meta.Index, meta.Term)
	}
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	s.goesOn(t)
}

// Raft asks for votes with the end of the log, be it of another log than the snapshot.
func TestAnInstanceWithNothingBehindItsSnapshotDoesNotTakeOver(t *testing.T) {
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = keepNoLog })
	first, leader, late := cluster[0], cluster[1], cluster[2]
	late.waitForRevision(t, register(t, first, "before").Revision)
	term, _ := first.leads()
	last := late.raft.LastIndex()
	late.stop(t)
	if err := first.HandOver(within(t), leader.config.ID); err != nil {
		t.Fatal(err)
	}
	leader.eventually(t, "leading", leading)
	for _, id := range []string{"a", "b", "c"} {
		register(t, leader, id)
	}
	if err := leader.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	end := leader.raft.LastIndex()
	store, err := bolt.Open(late.config.Directory, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	// As if it had led before, and been cut off.
	if err := errors.Join(store.StoreLogs(noops(last+1, end+2, term)), store.Close()); err != nil {
		t.Fatal(err)
	}
	late = restart(t, late, keepNoLog)
	until(t, "it is known to have the snapshot", func() bool { return leader.announced.reached(raft.ServerID(late.config.ID)) == end })
	if err := leader.HandOver(within(t), late.config.ID); !errors.Is(err, ports.ErrNoSuccessor) || !strings.Contains(err.Error(), errOtherEnd.Error()) {
		t.Errorf("HandOver = %v, want %v because of %v", err, ports.ErrNoSuccessor, errOtherEnd)
	}
	register(t, leader, "after")
	if err := leader.HandOver(within(t), late.config.ID); err != nil {
		t.Errorf("HandOver with an entry behind the snapshot = %v, want success", err)
	}
	late.eventually(t, "leading", leading)
}
