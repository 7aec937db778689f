package consensus

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

func TestRaftIsGivenNoEntryThatItsSnapshotCovers(t *testing.T) {
	type request struct {
		previous, term uint64
		entries        []uint64
		commit         uint64
	}
	for name, test := range map[string]struct{ sent, given request }{
		"a heartbeat": {request{}, request{}},
		"entries behind an entry after the snapshot":           {request{12, 4, []uint64{13, 14}, 14}, request{12, 4, []uint64{13, 14}, 14}},
		"entries right behind the snapshot":                    {request{10, 3, []uint64{11}, 11}, request{0, 0, []uint64{11}, 11}},
		"entries from before the snapshot to behind it":        {request{8, 2, []uint64{9, 10, 11}, 11}, request{0, 0, []uint64{11}, 11}},
		"entries before the snapshot":                          {request{7, 2, []uint64{8, 9}, 9}, request{0, 0, nil, 9}},
		"entries from the beginning of the log":                {request{0, 0, []uint64{1, 2}, 2}, request{0, 0, nil, 2}},
		"no entries, from before the snapshot":                 {request{7, 2, nil, 9}, request{0, 0, nil, 9}},
		"entries behind another entry at the snapshot's index": {request{10, 2, []uint64{11}, 11}, request{10, 2, []uint64{11}, 11}},
		"a commit index behind the entries":                    {request{12, 4, []uint64{13}, 20}, request{12, 4, []uint64{13}, 13}},
		"a commit index, and no entries":                       {request{12, 4, nil, 20}, request{12, 4, nil, 12}},
		"a commit index, and only covered entries":             {request{7, 2, []uint64{8}, 20}, request{0, 0, nil, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open("", nil)
			if err != nil {
				t.Fatal(err)
			}
			kept := &snapshots.Memory{}
			log := openBase(t, store, kept)
			makeSnapshot(t, kept, log, 10)
			sent := &raft.AppendEntriesRequest{PrevLogEntry: test.sent.previous, PrevLogTerm: test.sent.term, LeaderCommitIndex: test.sent.commit}
			for _, index := range test.sent.entries {
				sent.Entries = append(sent.Entries, &raft.Log{Index: index})
			}
			(&snapshotFilter{log: log, applied: func() uint64 { return 10 }}).trim(sent)
			given := request{sent.PrevLogEntry, sent.PrevLogTerm, nil, sent.LeaderCommitIndex}
			for _, entry := range sent.Entries {
				given.entries = append(given.entries, entry.Index)
			}
			if !slices.Equal(given.entries, test.given.entries) || given.previous != test.given.previous ||
				given.term != test.given.term || given.commit != test.given.commit {
				t.Errorf("request given to raft = %+v, want %+v", given, test.given)
			}
		})
	}
}

// A snapshot that is stored but could not be restored proves nothing about the log.
func TestRaftIsGivenAllEntriesUntilTheSnapshotIsRestored(t *testing.T) {
	store := storeOf(t, 0)
	kept := &snapshots.Memory{}
	log := openBase(t, store, kept)
	makeSnapshot(t, kept, log, 10)
	sent := &raft.AppendEntriesRequest{PrevLogEntry: 8, PrevLogTerm: 2, Entries: []*raft.Log{{Index: 9, Term: 2}, {Index: 10, Term: 3}}}
	(&snapshotFilter{log: log, applied: func() uint64 { return 9 }}).trim(sent)
	if sent.PrevLogEntry != 8 || len(sent.Entries) != 2 {
		t.Errorf("request given to raft = %+v, want it unchanged", sent)
	}
}

// The end of a log that is not committed proves nothing.
func TestRaftIsGivenAllEntriesIfItsLogConflictsWithTheSnapshot(t *testing.T) {
	store := storeOf(t, 0)
	kept := &snapshots.Memory{}
	log := openBase(t, store, kept)
	makeSnapshot(t, kept, log, 10)
	if err := store.StoreLogs([]*raft.Log{{Index: 9, Term: 1}, {Index: 10, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	sent := &raft.AppendEntriesRequest{PrevLogEntry: 8, Entries: []*raft.Log{{Index: 9, Term: 2}, {Index: 10, Term: 3}}}
	(&snapshotFilter{log: log, applied: func() uint64 { return 10 }}).trim(sent)
	if sent.PrevLogEntry != 8 || len(sent.Entries) != 2 {
		t.Errorf("request given to raft = %+v, want it unchanged", sent)
	}
}

// A follower may have more than its leader knows of, and so be sent an older snapshot.
func TestAFollowerDoesNotGoBackToAnOlderSnapshot(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader := leaderOf(t, cluster)
	at := slices.IndexFunc(cluster, func(i *instance) bool { return i != leader })
	follower := cluster[at]
	register(t, leader, "before")
	made := leader.raft.Snapshot()
	if err := made.Error(); err != nil {
		t.Fatal(err)
	}
	change := register(t, leader, "after")
	follower.waitForRevision(t, change.Revision)
	last, err := follower.store.LastIndex()
	if err != nil {
		t.Fatal(err)
	}

	meta, content, err := made.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	term, _ := leader.leads()
	self := raft.ServerAddress(leader.raftAddress())
	request := &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.config.ID), Addr: []byte(self)},
		SnapshotVersion: meta.Version,
		Term:            term,
		LastLogIndex:    meta.Index, LastLogTerm: meta.Term,
		Size:          meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
	var answer raft.InstallSnapshotResponse
	to := raft.ServerAddress(follower.raftAddress())
	if err := leader.interceptor.InstallSnapshot(raft.ServerID(follower.config.ID), to, request, &answer, content); err != nil {
		t.Fatal(err)
	}
	if !answer.Success || answer.Term != term {
		t.Errorf("answer = %+v, want success in term %d", answer, term)
	}
	if state, _ := follower.State(); state.View.Revision() < change.Revision {
		t.Errorf("revision = %d, want at least %d", state.View.Revision(), change.Revision)
	}
	if now, err := follower.store.LastIndex(); err != nil || now < last {
		t.Errorf("last index before = %d, after = %d, %v, want no smaller one", last, now, err)
	}
}

// While raft was busy, it may have stored the entries of the snapshot.
func TestASnapshotIsNotInstalledOnceTheLogHasItsEntries(t *testing.T) {
	for name, test := range map[string]struct {
		stored  uint64 // the last index when raft gets to the snapshot
		started bool
		taken   bool
	}{
		"the log lacks an entry of the snapshot": {stored: 9, started: true, taken: true},
		"the log ends with the snapshot":         {stored: 10, started: true},
		"the log ends behind the snapshot":       {stored: 12, started: true},
		"raft has not started":                   {stored: 9},
	} {
		t.Run(name, func(t *testing.T) {
			store := storeOf(t, 1, 7, 8)
			started := &atomic.Pointer[raft.Raft]{}
			if test.started {
				started.Store(&raft.Raft{})
			}
			log := openBase(t, store, &snapshots.Memory{})
			w := &interceptor{config: interceptorConfig{filter: &snapshotFilter{log: log, started: started, applied: func() uint64 { return 8 }}}}
			content := strings.NewReader("a snapshot")
			rpc := raft.RPC{Command: &raft.InstallSnapshotRequest{LastLogIndex: 10, LastLogTerm: 1}, Reader: content}
			if w.handled(&rpc) {
				t.Fatal("handled = true for a snapshot that the log lacks, want it passed on to raft")
			}
			for index := uint64(9); index <= test.stored; index++ {
				if err := store.StoreLog(&raft.Log{Index: index, Term: 1}); err != nil {
					t.Fatal(err)
				}
			}
			read, err := io.ReadAll(rpc.Reader)
			if taken := err == nil && string(read) == "a snapshot"; taken != test.taken {
				t.Errorf("read = %q, error %v, want the snapshot: %v", read, err, test.taken)
			}
			if !test.taken && !errors.Is(err, errCovered) {
				t.Errorf("error = %v, want errCovered", err)
			}
			if content.Len() > 0 {
				t.Errorf("bytes left, which would be taken for the next request, = %d, want none", content.Len())
			}
		})
	}
}

// Until raft has learned of the leader's term, the leader must send the snapshot again.
func TestASnapshotIsRecognizedOnlyInItsTerm(t *testing.T) {
	for name, test := range map[string]struct {
		term  uint64 // raft is in term 0
		taken bool
	}{
		"raft is in the leader's term": {0, true},
		"raft is in an earlier term":   {1, false},
	} {
		t.Run(name, func(t *testing.T) {
			started := &atomic.Pointer[raft.Raft]{}
			started.Store(&raft.Raft{})
			c := &snapshotFilter{started: started, applied: func() uint64 { return 10 }}
			content, answer := strings.NewReader("a snapshot"), make(chan raft.RPCResponse, 1)
			request := &raft.InstallSnapshotRequest{Term: test.term, LastLogIndex: 10, LastLogTerm: 1}
			if !c.has(request) {
				t.Fatal("has = false for a snapshot that the log covers")
			}
			c.skip(raft.RPC{Command: request, Reader: content, RespChan: answer}, request)
			got := <-answer
			if response := got.Response.(*raft.InstallSnapshotResponse); got.Error != nil || response.Term != 0 || response.Success != test.taken {
				t.Errorf("answer = %+v, %v, want success: %v", response, got.Error, test.taken)
			}
			if content.Len() > 0 {
				t.Errorf("bytes left, which would be taken for the next request, = %d, want none", content.Len())
			}
		})
	}
}
