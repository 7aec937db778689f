package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/wal"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

var durableBackends = []logstore.Backend{
	{Name: "bolt", Open: bolt.Open, Inspect: bolt.Inspect},
	{Name: "badger", Open: badger.Open, Inspect: badger.Inspect},
	{Name: "wal", Open: wal.Open, Inspect: wal.Inspect},
}

// inspectDirectory inspects the directory of a stopped instance, and fails the test if that
// changes anything.
func inspectDirectory(tb testing.TB, dir string, backend logstore.Backend) Report {
	tb.Helper()
	before := logstoretest.Tree(tb, dir)
	directory, err := logstore.ClaimReadOnly(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var warnings strings.Builder
	report, err := Inspect(context.Background(), directory, backend, slog.New(slog.NewTextHandler(&warnings, nil)))
	if err := errors.Join(err, directory.Close()); err != nil {
		tb.Fatal(err)
	}
	if warnings.Len() > 0 {
		tb.Errorf("warnings of Inspect = %s, want none", &warnings)
	}
	if after := logstoretest.Tree(tb, dir); after != before {
		tb.Errorf("Inspect changed the directory from\n%s\nto\n%s", before, after)
	}
	return report
}

// eagerSnapshots makes an instance take snapshots often, and keep little of the log behind
// them.
func eagerSnapshots(timing *Timing) {
	timing.SnapshotThreshold, timing.SnapshotInterval, timing.TrailingLogs = 20, 5*time.Millisecond, 30
}

// usedDirectory returns the directory of a stopped lone instance with two snapshots, and a
// log that begins before the older and ends behind the newer one.
func usedDirectory(t *testing.T, backend logstore.Backend) (dir string, last domain.Change) {
	t.Helper()
	dir = t.TempDir()
	i := start(t, instanceConfig{
		id: "n1", directory: dir, bootstrap: true, open: backend.Open, backend: backend.Name,
		timing: func(timing *Timing) { timing.TrailingLogs = 30 },
	})
	i.eventually(t, "leading", leading)
	nodes := 0
	more := func(changes int) {
		for range changes {
			nodes++
			last = register(t, i, fmt.Sprintf("node-%d", nodes))
		}
	}
	for range 2 {
		more(20)
		if err := i.makeSnapshot(); err != nil {
			t.Fatal(err)
		}
	}
	more(5)
	i.stop(t)
	return dir, last
}

func TestInspectOfAStoppedInstance(t *testing.T) {
	for _, backend := range durableBackends {
		t.Run(backend.Name, func(t *testing.T) {
			dir, last := usedDirectory(t, backend)
			r := inspectDirectory(t, dir, backend)
			if len(r.Faults) > 0 || !r.Sound() || r.Blank {
				t.Errorf("faults = %v, want none in a used directory", r.Faults)
			}
			if r.RaftID != "n1" || r.Backend != backend.Name || r.ClusterID == "" || r.Directory != dir {
				t.Errorf("report = id %q, backend %q, cluster %q, directory %q, want those of the instance", r.RaftID, r.Backend, r.ClusterID, r.Directory)
			}
			if r.Revision != last.Revision || r.Nodes != int(last.Revision) {
				t.Errorf("report = revision %d with %d nodes, want %d of both", r.Revision, r.Nodes, last.Revision)
			}
			if r.Term < 2 || r.VoteTerm != r.Term || r.VotedFor == "" || r.ReachTerm != r.Term || r.ReachIndex != r.LastIndex {
				t.Errorf("report = term %d, vote for %q in term %d, reach %d of term %d, want an election and the whole log", r.Term, r.VotedFor, r.VoteTerm, r.ReachIndex, r.ReachTerm)
			}
			if len(r.Snapshots) != 2 || r.Snapshots[0].Index <= r.Snapshots[1].Index || r.Snapshots[0].Index >= r.LastIndex || r.Snapshots[0].Size == 0 {
				t.Errorf("snapshots = %+v with last index %d, want two, the newest first", r.Snapshots, r.LastIndex)
			}
			if self, ok := r.Roster.Find("n1"); !ok || self.RaftAddress != r.VotedFor || self.Suffrage != domain.Voter || r.RosterIndex != 1 {
				t.Errorf("membership = %v of entry %d, want the instance as a voter, of entry 1", r.Roster.Instances(), r.RosterIndex)
			}
		})
	}
}

// A restore in progress is part of the state in a snapshot.
func TestInspectSeesARestoreThatGoesOnBehindASnapshot(t *testing.T) {
	backend, dir := durableBackends[0], t.TempDir()
	i := start(t, instanceConfig{id: "n1", directory: dir, bootstrap: true, open: backend.Open, backend: backend.Name})
	i.eventually(t, "leading", leading)
	write := func(step any) {
		if answer, err := i.apply(within(t), codec.EncodeEntry(step)); err != nil || answer.err != nil {
			t.Fatalf("apply(%+v) = %v, %v, want success", step, err, answer.err)
		}
	}
	first, second := domaintest.Node(t, "a", "h:1"), domaintest.Node(t, "b", "h:2")
	second.Slot = 1
	write(codec.RestorePart{ID: "r", Nodes: []*domain.CacheNode{&first}})
	if err := i.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	write(codec.RestorePart{ID: "r", Number: 1, Nodes: []*domain.CacheNode{&second}})
	write(codec.RestoreCommit{ID: "r", Parts: 2})
	i.stop(t)
	if r := inspectDirectory(t, dir, backend); r.Revision != 2 || r.Nodes != 2 || len(r.Faults) > 0 {
		t.Errorf("report = revision %d with %d nodes, faults %v, want revision 2 with 2 nodes and none", r.Revision, r.Nodes, r.Faults)
	}
}

func TestInspectOfABlankDirectory(t *testing.T) {
	for _, backend := range durableBackends {
		t.Run(backend.Name, func(t *testing.T) {
			dir := t.TempDir()
			directory, err := logstore.Claim(dir, logstore.Owner{RaftID: "n1", Backend: backend.Name})
			if err != nil {
				t.Fatal(err)
			}
			if err := directory.Close(); err != nil {
				t.Fatal(err)
			}
			if r := inspectDirectory(t, dir, backend); !r.Blank || len(r.Faults) > 0 {
				t.Errorf("report before the log exists = %+v, want blank", r)
			}
			i := start(t, instanceConfig{id: "n1", directory: dir, open: backend.Open, backend: backend.Name})
			i.stop(t)
			if r := inspectDirectory(t, dir, backend); !r.Blank || len(r.Faults) > 0 {
				t.Errorf("report after a start without a cluster = %+v, want blank", r)
			}
		})
	}
}

func TestInspectGivesUpWhenItIsTold(t *testing.T) {
	dir, _ := usedDirectory(t, durableBackends[0])
	directory, err := logstore.ClaimReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inspect(ctx, directory, durableBackends[0], slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("Inspect with a cancelled context = %v, want context.Canceled", err)
	}
}

func TestInspectFindsDamage(t *testing.T) {
	const everything = ""
	intact, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, intact, durableBackends[0])
	newest, older, last := before.Snapshots[0].Index, before.Snapshots[1].Index, before.LastIndex
	if before.FirstIndex <= older && before.FirstIndex < newest && newest < last-2 {
		t.Logf("log from %d to %d, snapshots at %d and %d", before.FirstIndex, last, older, newest)
	} else {
		t.Fatalf("log from %d to %d, snapshots at %d and %d, want one that begins before the older and ends behind the newer", before.FirstIndex, last, older, newest)
	}
	tests := map[string]struct {
		happens func(h harm)
		file    string // the file that the fault names; empty: any in the directory
		says    string
		help    string
		spare   bool
	}{
		"a changed byte in an entry": {
			happens: func(h harm) { h.entry(last-1, func(e *raft.Log) { e.Data[7] ^= 1 }) },
			file:    "log.bolt", says: fmt.Sprintf("entry %d: checksum mismatch", last-1), help: helpDamaged},
		"a truncated last entry": {
			happens: func(h harm) { h.entry(last, func(e *raft.Log) { e.Data = e.Data[:3] }) },
			file:    "log.bolt", says: fmt.Sprintf("entry %d: the data ends too early", last), help: helpDamaged},
		"a damaged entry that a snapshot covers": {
			happens: func(h harm) {
				h.entry(newest, func(e *raft.Log) { e.Type, e.Data = raft.LogCommand, []byte("nonsense") })
			},
			file: "log.bolt", says: fmt.Sprintf("entry %d: checksum mismatch", newest), help: helpCovered, spare: true},
		"an entry of a newer version": {
			happens: func(h harm) { h.entry(last, func(e *raft.Log) { e.Data = sealedWithByte(e.Data, 0, 9) }) },
			file:    "log.bolt", says: fmt.Sprintf("entry %d: unknown format: entry has format version 9", last), help: helpNewer},
		"an entry of a newer kind": {
			happens: func(h harm) { h.entry(last, func(e *raft.Log) { e.Data = sealedWithByte(e.Data, 1, 200) }) },
			file:    "log.bolt", says: "kind 200", help: helpNewer},
		"an entry under another index": {
			happens: func(h harm) {
				raw := h.rawEntries()
				h.rename(raw, last, last+40)
			},
			file: "log.bolt", says: fmt.Sprintf("entry %d is missing", last), help: helpDamaged},
		"an entry that is missing": {
			happens: func(h harm) { h.store(func(s logstore.Store) error { return s.DeleteRange(last-1, last-1) }) },
			file:    "log.bolt", says: fmt.Sprintf("entry %d is missing, and the log goes on to entry %d", last-1, last), help: helpDamaged},
		"a log whose first entries behind the newest snapshot are missing": {
			happens: func(h harm) { h.store(func(s logstore.Store) error { return s.DeleteRange(1, newest+1) }) },
			file:    "log.bolt", says: fmt.Sprintf("the log begins with entry %d, and no snapshot that is whole reaches further than entry %d", newest+2, newest), help: helpDamaged},
		"an entry with an earlier term than the one before": {
			happens: func(h harm) { h.entry(last, func(e *raft.Log) { e.Term = 1 }) },
			file:    "log.bolt", says: fmt.Sprintf("entry %d: it is of term 1", last), help: helpDamaged},
		"an entry with a later term than the current one": {
			happens: func(h harm) { h.entry(last, func(e *raft.Log) { e.Term = 99 }) },
			file:    "log.bolt", says: fmt.Sprintf("entry %d: it is of term 99", last), help: helpDamaged},
		"an entry of an unknown type": {
			happens: func(h harm) { h.entry(last, func(e *raft.Log) { e.Type = 77 }) },
			file:    "log.bolt", says: "of type 77", help: helpDamaged},
		"a membership that can't be decoded": {
			happens: func(h harm) {
				h.entry(last, func(e *raft.Log) { e.Type, e.Data = raft.LogConfiguration, []byte{0xc1} })
			},
			file: "log.bolt", says: fmt.Sprintf("entry %d: the membership in it can't be read", last), help: helpDamaged},
		"a current term before the entries' terms": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error {
					return errors.Join(s.SetUint64(logstore.TermKey, 1), s.SetUint64(logstore.VoteTermKey, 1))
				})
			},
			file: "log.bolt", says: "stable state: the current term is 1, and there is an entry of term", help: helpDamaged},
		"a vote in a later term than the current one": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error { return s.SetUint64(logstore.VoteTermKey, 50) })
			},
			file: "log.bolt", says: "the vote is of term 50", help: helpDamaged},
		"a current term that is no number": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error { return s.Set(logstore.TermKey, []byte("x")) })
			},
			file: "log.bolt", says: "CurrentTerm", help: helpDamaged},
		"a missing log": {
			happens: func(h harm) { h.remove(filepath.Join(h.dir, "log.bolt")) },
			file:    "log.bolt", says: "it is missing", help: helpDamaged},
		"an emptied log": {
			happens: func(h harm) {
				h.remove(filepath.Join(h.dir, "log.bolt"))
				h.remove(filepath.Join(h.dir, "snapshots"))
				h.store(func(logstore.Store) error { return nil })
			},
			file: "log.bolt", says: "it is empty", help: helpDamaged},
		"damage in the middle of the log file": {
			happens: func(h harm) {
				path := filepath.Join(h.dir, "log.bolt")
				raw, err := os.ReadFile(path)
				if err != nil {
					h.t.Fatal(err)
				}
				clear(raw[len(raw)/4 : len(raw)*3/4])
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					h.t.Fatal(err)
				}
			},
			file: "log.bolt", says: "bolt file is damaged"},
		"a truncated log file": {
			happens: func(h harm) { h.truncate(filepath.Join(h.dir, "log.bolt"), 9000) },
			file:    "log.bolt", says: "damaged"},
		"a damaged older snapshot": {
			happens: func(h harm) { h.flip(h.snapshot(1, "state.bin"), -9) },
			file:    "state.bin", says: "checksum mismatch", help: helpSpare, spare: true},
		"a damaged newest snapshot, when the log reaches back to the older one": {
			happens: func(h harm) { h.flip(h.snapshot(0, "state.bin"), 30) },
			file:    "state.bin", says: "checksum mismatch", help: helpSpare, spare: true},
		"both snapshots damaged": {
			happens: func(h harm) {
				h.flip(h.snapshot(0, "state.bin"), 30)
				h.flip(h.snapshot(1, "state.bin"), 30)
			},
			file: "log.bolt", says: "no snapshot that is whole", help: helpDamaged},
		"a damaged newest snapshot, when the log does not reach back to the older one": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error { return s.DeleteRange(newest, last) })
				h.flip(h.snapshot(0, "state.bin"), 30)
			},
			file: "state.bin", says: "checksum mismatch", help: helpDamaged},
		"a truncated snapshot": {
			happens: func(h harm) { h.truncate(h.snapshot(1, "state.bin"), 100) },
			file:    "state.bin", says: "it has 100 bytes", help: helpSpare, spare: true},
		"a snapshot without its state": {
			happens: func(h harm) { h.remove(h.snapshot(0, "state.bin")) },
			file:    "state.bin", says: "missing", help: helpSpare, spare: true},
		"a snapshot without its description": {
			happens: func(h harm) { h.remove(h.snapshot(0, "meta.json")) },
			file:    "meta.json", says: "missing", help: helpSpare, spare: true},
		"a truncated description": {
			happens: func(h harm) { h.truncate(h.snapshot(1, "meta.json"), 20) },
			file:    "meta.json", says: "unexpected end", help: helpSpare, spare: true},
		"a description of another snapshot": {
			happens: func(h harm) { h.describe(1, func(f *description) { f.Index++ }) },
			file:    "meta.json", says: "does not fit", help: helpSpare, spare: true},
		"a description with another term": {
			happens: func(h harm) { h.describe(1, func(f *description) { f.Term++ }) },
			file:    "meta.json", says: "does not fit", help: helpSpare, spare: true},
		"a description with a later time": {
			happens: func(h harm) { h.describe(1, func(f *description) { f.ID += "1" }) },
			file:    "meta.json", says: "does not fit", help: helpSpare, spare: true},
		"a snapshot with an entry more than it claims": {
			happens: func(h harm) { h.endBefore(0) },
			file:    "state.bin", says: fmt.Sprintf("it holds entry %d, and is said to end with entry %d", newest, newest-1), help: helpSpare, spare: true},
		"an older snapshot in a newer format": {
			happens: func(h harm) { h.ofNewerVersion(1) },
			file:    "state.bin", says: "format version 2", help: helpSpare, spare: true},
		"a newest snapshot in a newer format, when the log does not reach back to the older one": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error { return s.DeleteRange(newest, last) })
				h.ofNewerVersion(0)
			},
			file: "state.bin", says: "format version 2", help: helpNewer},
		"a membership with a wrong suffrage": {
			happens: func(h harm) { h.replace(h.snapshot(0, "meta.json"), `"Suffrage":0`, `"Suffrage":1`) },
			file:    "meta.json", says: "checksum mismatch", help: helpSpare, spare: true},
		"a damaged membership that no other file has": {
			happens: func(h harm) {
				h.store(func(s logstore.Store) error { return s.DeleteRange(newest, last) })
				h.replace(h.snapshot(0, "meta.json"), `"Suffrage":0`, `"Suffrage":1`)
			},
			file: "meta.json", says: "checksum mismatch", help: helpDamaged},
		"a description in a newer format": {
			happens: func(h harm) { h.describe(1, func(f *description) { f.Version = 7 }) },
			file:    "meta.json", says: "version 7", help: helpSpare, spare: true},
		"a manifest of another cluster": {
			happens: func(h harm) {
				h.replace(filepath.Join(h.dir, "instance.json"), h.r.ClusterID, "another")
			},
			file: everything, says: `it has "another", and they have "`, help: helpCluster},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(intact)); err != nil {
				t.Fatal(err)
			}
			test.happens(harm{t, dir, before})
			r := inspectDirectory(t, dir, durableBackends[0])
			for _, fault := range r.Faults {
				t.Log(fault)
			}
			found := false
			for _, fault := range r.Faults {
				if !strings.Contains(fault.What.Error(), test.says) {
					continue
				}
				found = true
				if !strings.HasSuffix(fault.Path, test.file) || !strings.HasPrefix(fault.Path, dir) {
					t.Errorf("fault names %s, want %s", fault.Path, test.file)
				}
				if fault.Help != test.help || fault.Spare != test.spare {
					t.Errorf("fault = spare %v, help %q, want the spare and help that the case names", fault.Spare, fault.Help)
				}
			}
			if !found {
				t.Errorf("no fault contains %q", test.says)
			}
			if r.Sound() != test.spare || r.Blank {
				t.Errorf("report = sound %v, blank %v, want it sound only if the damage is spare, and not blank", r.Sound(), r.Blank)
			}
		})
	}
}

// Raft leaves a gap in the log when it installs a snapshot. That is no damage.
func TestAGapBehindASnapshotIsNoDamage(t *testing.T) {
	dir, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, dir, durableBackends[0])
	h := harm{t, dir, before}
	h.store(func(s logstore.Store) error {
		return s.DeleteRange(before.FirstIndex+1, before.Snapshots[0].Index)
	})
	// The entries before the gap may be of a log that no other instance has.
	h.entry(before.FirstIndex, func(e *raft.Log) { e.Term = before.Term })
	after := inspectDirectory(t, dir, durableBackends[0])
	if len(after.Faults) > 0 || after.Revision != before.Revision {
		t.Errorf("report = revision %d, faults after %d: %v, want the same revision and no faults", after.Revision, before.Revision, after.Faults)
	}
}

func TestTheNumberOfReportedFaultsIsLimited(t *testing.T) {
	dir, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, dir, durableBackends[0])
	h := harm{t, dir, before}
	for _, entry := range h.rawEntries() {
		h.entry(entry.Index, func(e *raft.Log) { e.Type = 99 })
	}
	faults := inspectDirectory(t, dir, durableBackends[0]).Faults
	if len(faults) > maxFaults+2 || !strings.Contains(fmt.Sprint(faults), "too much damage") {
		t.Errorf("number of faults = %d, want at most maxFaults+2, with a note of too much damage: %v", len(faults), faults)
	}
}

// notedKeys is a store that records which keys raft writes.
type notedKeys struct {
	logstore.Store
	mu   *sync.Mutex
	keys map[string]bool
}

func (n notedKeys) note(key []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keys[string(key)] = true
}

func (n notedKeys) Set(key, value []byte) error {
	n.note(key)
	return n.Store.Set(key, value)
}

func (n notedKeys) SetUint64(key []byte, value uint64) error {
	n.note(key)
	return n.Store.SetUint64(key, value)
}

// A migration copies the keys that logstore names, and no others.
func TestRaftKeepsNothingUnderOtherKeys(t *testing.T) {
	noted := notedKeys{mu: &sync.Mutex{}, keys: map[string]bool{}}
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.backend = "bolt"
		config.open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
			store, err := bolt.Open(dir, logger)
			return notedKeys{store, noted.mu, noted.keys}, err
		}
		config.timing = eagerSnapshots
	})
	for n := range 30 {
		register(t, cluster[0], fmt.Sprintf("node-%d", n))
	}
	if err := cluster[0].HandOver(within(t), ""); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, cluster)
	for _, i := range cluster {
		i.stop(t)
	}
	known := map[string]bool{}
	for _, key := range [][]byte{logstore.TermKey, logstore.VoteTermKey, logstore.VoteCandidateKey} {
		known[string(key)] = true
	}
	mustEqual(t, "the keys that raft has written", noted.keys, known)
}
