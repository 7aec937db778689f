package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// testMachine returns a machine, and fails the test if that halts.
func testMachine(t domaintest.T) *machine {
	return newMachine(newSharedState(ports.LocalState{}), func(err error) { t.Fatalf("halted: %v", err) })
}

// logOf returns a log as raft passes it on: an opening, the commands, some entries that the
// machine ignores, and restores whose parts lie between the commands.
func logOf(commands ...domain.Command) []*raft.Log {
	log := []*raft.Log{{Index: 2, Term: 1, Type: raft.LogCommand, Data: codec.EncodeEntry(codec.Opening{ClusterID: "first"})}}
	for i, cmd := range commands {
		term := 1 + uint64(i)/10
		next := func(kind raft.LogType, data []byte) {
			log = append(log, &raft.Log{Index: log[len(log)-1].Index + 1, Term: term, Type: kind, Data: data})
		}
		if i%10 == 9 {
			next(raft.LogConfiguration, []byte("not an entry of ours"))
			next(raft.LogCommand, codec.EncodeEntry(codec.Opening{ClusterID: "later"}))
			next(raft.LogCommand, codec.EncodeEntry(codec.Promotion{ID: fmt.Sprintf("n%d", i%30)}))
			next(raft.LogCommand, codec.EncodeEntry(codec.Promotion{ID: fmt.Sprintf("n%d", i%20), Settled: true}))
		}
		next(raft.LogCommand, codec.EncodeEntry(cmd))
		for _, entry := range restoreAt(i) {
			next(raft.LogCommand, codec.EncodeEntry(entry))
		}
	}
	return log
}

func machineSnapshot(t domaintest.T, m *machine) []byte {
	t.Helper()
	s, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	sink := &memorySink{}
	if err := s.Persist(sink); err != nil {
		t.Fatal(err)
	}
	s.Release()
	if sink.closed != 1 || sink.cancelled != 0 {
		t.Fatalf("sink was closed %d times and cancelled %d times, want closed once", sink.closed, sink.cancelled)
	}
	return sink.Bytes()
}

type memorySink struct {
	bytes.Buffer
	closed, cancelled int
}

func (s *memorySink) ID() string    { return "memory" }
func (s *memorySink) Close() error  { s.closed++; return nil }
func (s *memorySink) Cancel() error { s.cancelled++; return nil }

func TestASnapshotAndTheRestOfTheLogEqualTheWholeLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := logOf(domaintest.CrossingCommands().Draw(t, "commands")...)
		whole := testMachine(t)
		var want []outcome
		for _, entry := range log {
			if o, ok := whole.Apply(entry).(outcome); ok {
				want = append(want, o)
			}
		}

		at := rapid.IntRange(0, len(log)).Draw(t, "snapshot after")
		first, second := testMachine(t), testMachine(t)
		got := applyInBatches(t, first, log[:at])
		snapshot := machineSnapshot(t, first)
		if err := second.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(machineSnapshot(t, second), snapshot) {
			t.Fatal("the snapshot of a restored machine differs from the one that it was restored from")
		}
		got = append(got, applyInBatches(t, second, log[at:])...)

		if len(got) != len(want) {
			t.Fatalf("number of outcomes = %d, want %d", len(got), len(want))
		}
		for i := range want {
			mustEqual(t, fmt.Sprintf("outcome %d", i),
				domaintest.AnswerOf(got[i].changes, got[i].err), domaintest.AnswerOf(want[i].changes, want[i].err))
		}
		if !bytes.Equal(machineSnapshot(t, second), machineSnapshot(t, whole)) {
			t.Fatal("the snapshots of the two machines differ")
		}
		if n := second.state.read(); n.Applied != log[len(log)-1].Index && at < len(log) || n.ClusterID != "first" && at > 0 {
			t.Fatalf("state = applied %d, cluster %q, want the last index and first", n.Applied, n.ClusterID)
		}
	})
}

// Commands have the same effect whether they share an entry or not.
func TestSharedEntriesDoWhatTheirCommandsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		commands := domaintest.CrossingCommands().Draw(t, "commands")
		alone, together := testMachine(t), testMachine(t)
		index := uint64(1)
		for len(commands) > 0 {
			size := rapid.IntRange(1, len(commands)).Draw(t, "share")
			var entries [][]byte
			var want []outcome
			for _, cmd := range commands[:size] {
				entries = append(entries, codec.EncodeEntry(cmd))
				want = append(want, alone.Apply(&raft.Log{Index: index, Term: 1, Data: codec.EncodeEntry(cmd)}).(outcome))
			}
			got := together.Apply(&raft.Log{Index: index, Term: 1, Data: codec.JoinEntries(entries)}).([]outcome)
			if len(got) != size {
				t.Fatalf("number of outcomes = %d, want %d", len(got), size)
			}
			for i := range want {
				mustEqual(t, fmt.Sprintf("outcome %d", i), domaintest.AnswerOf(got[i].changes, got[i].err), domaintest.AnswerOf(want[i].changes, want[i].err))
			}
			commands = commands[size:]
			index++
		}
		if !bytes.Equal(machineSnapshot(t, together), machineSnapshot(t, alone)) {
			t.Fatal("the snapshots of the two machines differ")
		}
	})
}

func applyInBatches(t *rapid.T, m *machine, log []*raft.Log) []outcome {
	var outcomes []outcome
	for len(log) > 0 {
		size := rapid.IntRange(1, len(log)).Draw(t, "batch")
		answers := m.ApplyBatch(log[:size])
		if len(answers) != size {
			t.Fatalf("number of answers = %d, want %d", len(answers), size)
		}
		for i, entry := range log[:size] {
			if o, ok := answers[i].(outcome); ok {
				outcomes = append(outcomes, o)
			} else if entry.Type == raft.LogCommand {
				t.Fatalf("answer to entry %d = %v, want an outcome", entry.Index, answers[i])
			}
		}
		log = log[size:]
	}
	return outcomes
}

func TestABatchIsPublishedOnce(t *testing.T) {
	m := testMachine(t)
	before := m.state.read()
	told := 0
	m.afterApply = func() {
		if told++; m.state.read().Applied != 4 {
			t.Error("afterApply was called before the state was posted")
		}
	}
	m.ApplyBatch(logOf(domain.Register{Node: domaintest.Node(t, "a", "h:1")}, domain.Register{Node: domaintest.Node(t, "b", "h:2")}))
	if told != 1 {
		t.Errorf("afterApply was called %d times, want once", told)
	}
	select {
	case <-before.later:
	default:
		t.Fatal("the new state was not published")
	}
	after := m.state.read()
	if after.Applied != 4 || after.openTerm != 1 || after.ClusterID != "first" || after.View.Revision() != 2 {
		t.Errorf("state = applied %d, open term %d, cluster %q, revision %d, want 4, 1, first and 2",
			after.Applied, after.openTerm, after.ClusterID, after.View.Revision())
	}
	if before.View.Len() != 0 {
		t.Error("the earlier state changed")
	}
	select {
	case <-after.later:
		t.Error("the state was published more than once")
	default:
	}
}

// A subscriber must never find that the history begins behind the last change that it saw.
func TestABatchOfVeryManyChangesIsPostedMeanwhile(t *testing.T) {
	const each, entries = 300, 40 // more than the history has
	var m *machine
	seen := domain.Revision(0)
	m = newMachine(newSharedState(ports.LocalState{}), func(error) { seen = m.state.read().View.Revision() })
	var batch []*raft.Log
	for entry := range entries {
		var writes [][]byte
		for n := range each {
			cmd := domain.Register{Node: domaintest.Node(t, fmt.Sprintf("n%d", n), fmt.Sprintf("h%d:1", n))}
			cmd.Node.Weight = entry
			writes = append(writes, codec.EncodeEntry(cmd))
		}
		batch = append(batch, &raft.Log{Index: uint64(entry + 1), Term: 1, Data: codec.JoinEntries(writes)})
	}
	m.ApplyBatch(append(batch, &raft.Log{Index: entries + 1, Term: 1, Data: unknownEntry()})) // the machine halts there
	if all := domain.Revision(each * entries); seen <= all-publishEvery {
		t.Errorf("after %d changes, published revision = %d, want one within publishEvery", all, seen)
	}
}

func TestTheFirstOpeningNamesTheClusterAndEachOpensItsTerm(t *testing.T) {
	m := testMachine(t)
	for index, o := range []struct {
		term uint64
		id   string
		want string
	}{{1, "", ""}, {2, "first", "first"}, {5, "later", "first"}} {
		m.Apply(&raft.Log{Index: uint64(index + 1), Term: o.term, Data: codec.EncodeEntry(codec.Opening{ClusterID: o.id})})
		if n := m.state.read(); n.ClusterID != o.want || n.openTerm != o.term {
			t.Errorf("after %+v: cluster = %q, open term = %d, want the first id and that term", o, n.ClusterID, n.openTerm)
		}
	}
}

func TestOnlyTheLatestMembershipsAreKept(t *testing.T) {
	m := testMachine(t)
	const many = maxRosters + 3
	for index := uint64(1); index <= many; index++ {
		membership := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(fmt.Sprint(index)), Address: "h:1"}}}
		m.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(membership)})
	}
	kept := m.state.read().Committed
	if len(kept) != maxRosters || kept[0].Index != 4 || kept[maxRosters-1].Index != many {
		t.Errorf("memberships kept = %d from entry %d, want maxRosters from entry 4", len(kept), kept[0].Index)
	}
}

// The log and its snapshots contain entries of all formats up to this one.
func TestTheHighestFormatThatWasAppliedStays(t *testing.T) {
	m := testMachine(t)
	applyEntries(t, m, codec.RestoreAbort{ID: "r"}, domain.Deregister{ID: "nobody"})
	if written, want := m.state.read().written, codec.FormatOf(codec.RestoreAbort{}); written != want {
		t.Errorf("highest format = %d, want %d as applied", written, want)
	}
}

func TestPromotionsAreKeptInOrder(t *testing.T) {
	m := testMachine(t)
	var index uint64
	for _, step := range []struct {
		codec.Promotion
		want []string
	}{
		{codec.Promotion{ID: "b"}, []string{"b"}},
		{codec.Promotion{ID: "a"}, []string{"a", "b"}},
		{codec.Promotion{ID: "b"}, []string{"a", "b"}},
		{codec.Promotion{ID: "c", Settled: true}, []string{"a", "b"}},
		{codec.Promotion{ID: "c"}, []string{"a", "b", "c"}},
		{codec.Promotion{ID: "b", Settled: true}, []string{"a", "c"}},
		{codec.Promotion{ID: "b", Settled: true}, []string{"a", "c"}},
		{codec.Promotion{ID: "b"}, []string{"a", "b", "c"}},
		{codec.Promotion{ID: "b", Settled: true}, []string{"a", "c"}},
		{codec.Promotion{ID: "a", Settled: true}, []string{"c"}},
		{codec.Promotion{ID: "c", Settled: true}, nil},
	} {
		before := m.state.read().Promotions
		kept := slices.Clone(before)
		index++
		m.Apply(&raft.Log{Index: index, Term: 1, Data: codec.EncodeEntry(step.Promotion)})
		if got := m.state.read().Promotions; !slices.Equal(got, step.want) {
			t.Errorf("promotions after %+v = %q, want %q", step.Promotion, got, step.want)
		}
		if !slices.Equal(before, kept) {
			t.Errorf("%+v changed an earlier state", step.Promotion)
		}
	}
}

// A cluster id that the instance knows from its directory must survive a log that does not
// contain it yet.
func TestAClusterIDThatIsKnownBeforehandStays(t *testing.T) {
	m := newMachine(newSharedState(ports.LocalState{ClusterID: "known"}), nil)
	m.Apply(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration})
	if id := m.state.read().ClusterID; id != "known" {
		t.Errorf("cluster id = %q, want known", id)
	}
}

func TestAnEntryThatCanNotBeReadHaltsTheMachine(t *testing.T) {
	tests := map[string]struct {
		data []byte
		says string
	}{
		"a damaged entry":             {append(codec.EncodeEntry(domain.Deregister{ID: "a"}), 0), "checksum"},
		"an empty entry":              {nil, "too early"},
		"an entry of a new build":     {unknownEntry(), "newer build"},
		"a new command behind others": {codec.JoinEntries([][]byte{codec.EncodeEntry(domain.Deregister{ID: "a"}), unknownEntry()}), "newer build"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var halts []error
			m := newMachine(newSharedState(ports.LocalState{}), func(err error) { halts = append(halts, err) })
			m.ApplyBatch(logOf(domain.Register{Node: domaintest.Node(t, "a", "h:1")}))
			before := m.state.read()

			bad := func(index uint64) *raft.Log { return &raft.Log{Index: index, Term: 7, Data: test.data} }
			good := &raft.Log{Index: 6, Term: 7, Data: codec.EncodeEntry(domain.Deregister{ID: "a"})}
			first := &raft.Log{Index: 4, Term: 7, Data: codec.EncodeEntry(domain.Register{Node: domaintest.Node(t, "b", "h:2")})}
			answers := m.ApplyBatch([]*raft.Log{first, bad(5), good, bad(7)})
			later := m.Apply(good)

			if len(halts) != 1 {
				t.Fatalf("halts = %d, want 1: %v", len(halts), halts)
			}
			for _, word := range []string{"log entry 5 of term 7", test.says} {
				if !strings.Contains(halts[0].Error(), word) {
					t.Errorf("reason of the halt = %q, want it to contain %q", halts[0], word)
				}
			}
			if err := answers[0].(outcome).err; err != nil {
				t.Errorf("outcome of the entry before the unreadable one = %v, want success", err)
			}
			// The following entries are committed, so other instances do apply them.
			for i, a := range append(answers[1:], later) {
				if err := a.(outcome).err; !errors.Is(err, ports.ErrOutcomeUnknown) {
					t.Errorf("answer %d behind the unreadable entry = %v, want ErrOutcomeUnknown", i, err)
				}
			}
			if now := m.state.read(); now.Applied > 4 || now.View.Revision() > before.View.Revision()+1 || now.View.Len() < 1 {
				t.Errorf("state = applied %d, revision %d, want nothing applied behind the unreadable entry", now.Applied, now.View.Revision())
			}
			// Raft would keep such a snapshot as the state after entry 7, and a later build
			// would start from it.
			if _, err := m.Snapshot(); err == nil {
				t.Error("Snapshot = nil error for a state that lacks an entry, want an error")
			}
		})
	}
}

func TestARestoreThatFailsLeavesTheOldState(t *testing.T) {
	other := snapshotOf(t, imageOf(domaintest.RegistryAfter(domain.Register{Node: domaintest.Node(t, "other", "h:9")})))
	damaged := bytes.Clone(other)
	damaged[len(damaged)/2] ^= 1
	tests := map[string]io.Reader{
		"a damaged snapshot":                     bytes.NewReader(damaged),
		"a truncated snapshot":                   bytes.NewReader(other[:len(other)-1]),
		"an unreadable snapshot":                 failing{},
		"a snapshot that is unreadable midway":   io.MultiReader(bytes.NewReader(other[:len(other)/2]), failing{}),
		"a snapshot that does not hold together": bytes.NewReader(sealedWithByte(other, len(other)-crc32.Size-1, 3)), // announces three nodes
	}
	for name, snapshot := range tests {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			m.ApplyBatch(logOf(domain.Register{Node: domaintest.Node(t, "a", "h:1")}))
			before, bytesBefore := m.state.read(), machineSnapshot(t, m)
			if err := m.Restore(io.NopCloser(snapshot)); err == nil {
				t.Fatal("Restore = nil, want an error")
			}
			if m.state.read() != before {
				t.Error("a failed restore published a state")
			}
			if !bytes.Equal(machineSnapshot(t, m), bytesBefore) {
				t.Error("a failed restore changed the machine")
			}
			if a := m.Apply(&raft.Log{Index: 4, Term: 1, Data: codec.EncodeEntry(domain.Deregister{ID: "a"})}).(outcome); a.err != nil {
				t.Errorf("Apply after a failed restore = %v, want success", a.err)
			}
		})
	}
}

// Otherwise the log would go on behind the snapshot with entries that the snapshot replaces.
func TestARestoreForWhichTheLogCannotBeCutLeavesTheOldState(t *testing.T) {
	m := testMachine(t)
	m.ApplyBatch(logOf(domain.Register{Node: domaintest.Node(t, "a", "h:1")}))
	before := m.state.read()
	other := snapshotOf(t, imageOf(domaintest.RegistryAfter(domain.Register{Node: domaintest.Node(t, "other", "h:9")})))
	replaced := []uint64{}
	m.dropReplaced = func(index, term uint64) error {
		replaced = append(replaced, index, term)
		return errDisk
	}
	err := m.Restore(stateWithMeta{io.NopCloser(bytes.NewReader(other)), &raft.SnapshotMeta{Index: 9, Term: 3}})
	if !errors.Is(err, errDisk) || !slices.Equal(replaced, []uint64{9, 3}) {
		t.Errorf("log cut up to %v, Restore = %v, want entry 9 of term 3 and the error of the disk", replaced, err)
	}
	if m.state.read() != before {
		t.Error("a failed restore published a state")
	}
}

func TestARestoreReplacesTheStateAndWakesAllWaiters(t *testing.T) {
	m := testMachine(t)
	m.ApplyBatch(logOf(domain.Register{Node: domaintest.Node(t, "a", "h:1")}))
	before := m.state.read()
	im := imageOf(domaintest.RegistryAfter(domain.Register{Node: domaintest.Node(t, "other", "h:9")}))
	im.Promotions = []string{"n4"}
	if err := m.Restore(io.NopCloser(bytes.NewReader(snapshotOf(t, im)))); err != nil {
		t.Fatal(err)
	}
	<-before.later
	after := m.state.read()
	mustEqual(t, "the snapshot of the state", snapshotOf(t, codec.Snapshot{
		View: after.View, ClusterID: after.ClusterID, Applied: after.Applied, OpenTerm: after.openTerm, Promotions: after.Promotions,
	}), snapshotOf(t, im))
	if _, there := before.View.Node("a"); !there {
		t.Error("an earlier view changed")
	}
}

func TestASnapshotThatCanNotBeKeptIsCancelled(t *testing.T) {
	sink := &brokenSink{}
	if err := (fsmSnapshot{imageOf(domaintest.RegistryAfter(domain.Register{Node: domaintest.Node(t, "a", "h:1")}))}).Persist(sink); !errors.Is(err, errDisk) {
		t.Errorf("Persist = %v, want the error of the disk", err)
	}
	if sink.closed != 0 || sink.cancelled != 1 {
		t.Errorf("sink was closed %d times and cancelled %d times, want cancelled once", sink.closed, sink.cancelled)
	}
}

type brokenSink struct{ memorySink }

func (*brokenSink) Write([]byte) (int, error) { return 0, errDisk }
