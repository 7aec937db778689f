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

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// scriptedLeader is a transport by which a test acts as the leader of an instance.
type scriptedLeader struct {
	transport
	rpcs chan raft.RPC
}

func (s scriptedLeader) Consumer() <-chan raft.RPC { return s.rpcs }

// send sends a command, and returns the answer.
func (s scriptedLeader) send(t *testing.T, command any, content io.Reader) any {
	t.Helper()
	answer := make(chan raft.RPCResponse, 1)
	select {
	case s.rpcs <- raft.RPC{Command: command, Reader: content, RespChan: answer}:
	case <-within(t).Done():
		t.Fatalf("the instance does not receive %+v", command)
	}
	select {
	case got := <-answer:
		if got.Error != nil {
			t.Fatalf("answer to %T = error %v", command, got.Error)
		}
		return got.Response
	case <-within(t).Done():
		t.Fatalf("no answer to %T", command)
	}
	return nil
}

// scriptedTerm is the term of the scripted leader.
const scriptedTerm = 9

var scriptedHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("leader"), Addr: []byte("leader:1")}

// append sends entries that follow the entry previous.
func (s scriptedLeader) append(t *testing.T, previous, previousTerm uint64, entries []*raft.Log, commit uint64) *raft.AppendEntriesResponse {
	t.Helper()
	return s.send(t, &raft.AppendEntriesRequest{
		RPCHeader: scriptedHeader, Term: scriptedTerm, PrevLogEntry: previous, PrevLogTerm: previousTerm, Entries: entries, LeaderCommitIndex: commit,
	}, nil).(*raft.AppendEntriesResponse)
}

// install sends a snapshot, which the instance must accept.
func (s scriptedLeader) install(t *testing.T, meta *raft.SnapshotMeta, content []byte) {
	t.Helper()
	if got := s.send(t, installRequest(meta), bytes.NewReader(content)).(*raft.InstallSnapshotResponse); !got.Success {
		t.Fatalf("answer to a snapshot = %+v, want success", got)
	}
}

func installRequest(meta *raft.SnapshotMeta) *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{
		RPCHeader: scriptedHeader, SnapshotVersion: meta.Version, Term: scriptedTerm, LastLogIndex: meta.Index, LastLogTerm: meta.Term,
		Size: meta.Size, Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
}

// startFollower returns a blank instance, and its leader.
func startFollower(t *testing.T) (*instance, scriptedLeader) {
	t.Helper()
	return startFollowerWith(t, nil)
}

// startFollowerWith is startFollower with another state machine; nil: its own.
func startFollowerWith(t *testing.T, fsm func(*machine) raft.FSM) (*instance, scriptedLeader) {
	t.Helper()
	leader := scriptedLeader{rpcs: make(chan raft.RPC)}
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

// someSnapshot returns a snapshot of a cluster that has the node "a".
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

// A former leader that was cut off has entries that are not committed. Its successor sends
// it a snapshot that ends before, with or behind its log.
func TestAFollowerTakesTheEntriesBehindItsSnapshot(t *testing.T) {
	meta, content := someSnapshot(t)
	for name, last := range map[string]uint64{
		"just before the snapshot": meta.Index - 1,
		"long before the snapshot": meta.Index - 3,
		"with the snapshot":        meta.Index,
		"just behind the snapshot": meta.Index + 1,
		"far behind the snapshot":  meta.Index + 5,
	} {
		t.Run("the follower's log ends "+name, func(t *testing.T) {
			i, leader := startFollower(t)
			if got := leader.append(t, 0, 0, noops(1, last, meta.Term-1), 0); !got.Success {
				t.Fatalf("answer to a log = %+v, want success", got)
			}
			leader.install(t, meta, content)
			for index := uint64(1); index <= meta.Index; index++ {
				if err := i.store.GetLog(index, new(raft.Log)); err == nil {
					t.Errorf("entry %d, which the snapshot replaces, is still in the log", index)
				}
			}
			next := meta.Index + 1
			if got := leader.append(t, meta.Index, meta.Term, noops(next, next, scriptedTerm), next); !got.Success {
				t.Errorf("answer to the entry behind the snapshot = %+v, want success", got)
			}
			if got := leader.append(t, next, scriptedTerm, noops(next+1, next+2, scriptedTerm), next+2); !got.Success {
				t.Errorf("answer to further entries = %+v, want success", got)
			}
			until(t, "all entries are applied", func() bool { return i.raft.AppliedIndex() == next+2 })
			if _, known := i.state.read().View.Node("a"); !known {
				t.Error("the state lacks the node of the snapshot")
			}
		})
	}
}

// failingRestore is a state machine whose first Restore fails.
type failingRestore struct {
	*machine
	tried *atomic.Bool
}

func (f failingRestore) Restore(snapshot io.ReadCloser) error {
	if f.tried.CompareAndSwap(false, true) {
		return errors.New("the snapshot can't be read at the moment")
	}
	return f.machine.Restore(snapshot)
}

// startFailingFollower returns a blank instance whose first Restore fails, and its leader.
func startFailingFollower(t *testing.T) (*instance, scriptedLeader) {
	t.Helper()
	return startFollowerWith(t, func(m *machine) raft.FSM { return failingRestore{m, &atomic.Bool{}} })
}

// installUnrestorable sends a snapshot whose restore must fail.
func (s scriptedLeader) installUnrestorable(t *testing.T, meta *raft.SnapshotMeta, content []byte) {
	t.Helper()
	answer := make(chan raft.RPCResponse, 1)
	s.rpcs <- raft.RPC{Reader: bytes.NewReader(content), RespChan: answer, Command: installRequest(meta)}
	if got := receive(t, answer, "no answer to a snapshot"); got.Error == nil {
		t.Fatalf("answer to a snapshot that cannot be restored = %+v, want an error", got.Response)
	}
}

// The next leader may have the entries that follow the instance's log, and sends them.
func TestASnapshotThatCouldNotBeRestoredLeavesTheLog(t *testing.T) {
	const last = 5
	meta, content := someSnapshot(t)
	if meta.Index < last+2 {
		t.Fatalf("the snapshot ends with entry %d, so the test shows nothing", meta.Index)
	}
	i, leader := startFailingFollower(t)
	if got := leader.append(t, 0, 0, noops(1, last, 1), 1); !got.Success {
		t.Fatalf("answer to a log = %+v, want success", got)
	}
	leader.installUnrestorable(t, meta, content)
	if got := leader.append(t, last, 1, noops(last+1, last+2, scriptedTerm), last+2); !got.Success {
		t.Errorf("answer to the entries behind the log = %+v, want success", got)
	}
	until(t, "all entries are applied", func() bool { return i.raft.AppliedIndex() == last+2 })
}

// The snapshot is stored, but the state machine lacks it, and the log may lack its entries.
func TestEntriesBehindASnapshotThatCouldNotBeRestoredAreRefused(t *testing.T) {
	meta, content := someSnapshot(t)
	for name, own := range map[string]uint64{ // the end of its own snapshot and of its log
		"the follower has no data":                         0,
		"the follower's log ends just before the snapshot": meta.Index - 1,
		"the follower's log ends long before the snapshot": meta.Index - 3,
	} {
		t.Run(name, func(t *testing.T) {
			i, leader := startFailingFollower(t)
			if own > 0 {
				leader.append(t, 0, 0, noEffectCommands(1, own, meta.Term), own)
				until(t, "all entries are applied", func() bool { return i.state.read().Applied == own })
				if err := errors.Join(i.raft.Snapshot().Error(), removeAll(i.logs.stored)); err != nil {
					t.Fatal(err)
				}
			}
			leader.installUnrestorable(t, meta, content)
			next := meta.Index + 1
			if got := leader.append(t, meta.Index, meta.Term, noops(next, next, scriptedTerm), 0); got.Success {
				t.Errorf("entry %d was accepted although those up to %d are missing", next, meta.Index)
			}
			leader.install(t, meta, content)
			if got := leader.append(t, meta.Index, meta.Term, noops(next, next, scriptedTerm), next); !got.Success {
				t.Errorf("answer to the entry behind the restored snapshot = %+v, want success", got)
			}
			until(t, "all entries are applied", func() bool { return i.raft.AppliedIndex() == next })
			if _, known := i.state.read().View.Node("a"); !known {
				t.Error("the state lacks the node of the snapshot")
			}
		})
	}
}

// noEffectCommands returns commands that change nothing when they are applied.
func noEffectCommands(first, last, term uint64) []*raft.Log {
	logs := noops(first, last, term)
	for _, entry := range logs {
		entry.Type, entry.Data = raft.LogCommand, codec.EncodeEntry(domain.Deregister{ID: "nobody"})
	}
	return logs
}

// Entries behind an installed snapshot in the old log are of no current leader. An instance
// that stops before it gets the next entry still has them, but everything committed is in
// the snapshot.
func TestEntriesBehindAnInstalledSnapshotAreNotRecovered(t *testing.T) {
	meta, content := someSnapshot(t)
	i, leader := startFollower(t)
	log := noops(1, meta.Index+5, meta.Term-1)
	log[meta.Index+1] = &raft.Log{Index: meta.Index + 2, Term: meta.Term - 1, Type: raft.LogCommand,
		Data: codec.EncodeEntry(domain.Register{Node: node(t, "phantom", "phantom:1")})}
	leader.append(t, 0, 0, log, 0)
	leader.install(t, meta, content)
	s := survivor{dir: i.config.Directory, id: i.config.ID, address: i.raftAddress(), backend: durableBackends[0]}
	i.stop(t)
	s.state, _ = i.State()
	report := inspectDirectory(t, s.dir, s.backend)
	if report.ReachIndex != meta.Index || report.ReachTerm != meta.Term || !report.Sound() {
		t.Errorf("report reaches entry %d of term %d with faults %v, want entry %d of term %d and none", report.ReachIndex, report.ReachTerm, report.Faults, meta.Index, meta.Term)
	}
	if err := s.recover(t, s.alone(), s.backend); err != nil {
		t.Fatal(err)
	}
	s.mustGoOnAlone(t)
}

// Raft asks for votes with the end of the log, even if that belongs to another log than the
// snapshot.
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
	// As if the instance had led in the earlier term, and been cut off.
	if err := errors.Join(store.StoreLogs(noops(last+1, end+2, term)), store.Close()); err != nil {
		t.Fatal(err)
	}
	late = restart(t, late, keepNoLog)
	until(t, "the leader knows that the instance has the snapshot", func() bool { return leader.announced.reached(raft.ServerID(late.config.ID)) == end })
	if err := leader.HandOver(within(t), late.config.ID); !errors.Is(err, ports.ErrNoSuccessor) || !strings.Contains(err.Error(), errOtherEnd.Error()) {
		t.Errorf("HandOver = %v, want %v because of %v", err, ports.ErrNoSuccessor, errOtherEnd)
	}
	register(t, leader, "after")
	if err := leader.HandOver(within(t), late.config.ID); err != nil {
		t.Errorf("HandOver with an entry behind the snapshot = %v, want success", err)
	}
	late.eventually(t, "leading", leading)
}
