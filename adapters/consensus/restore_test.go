package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// restoreAt returns the steps of restores that follow command i of a log: of every three
// restores one is committed, one fails and one is aborted.
func restoreAt(i int) []any {
	id := fmt.Sprintf("r%d", i/7)
	node := func(name string, slot int) *domain.CacheNode {
		return &domain.CacheNode{
			ID: name, Address: name + ":1", Pool: "p", Weight: i / 7, Slot: slot, State: domain.Active, OnExpiry: domain.RemoveOnExpiry,
		}
	}
	switch {
	case i%7 == 2:
		return []any{codec.RestorePart{ID: id, Nodes: []*domain.CacheNode{node("b", 1)}}}
	case i%7 == 3:
		return []any{codec.RestorePart{ID: id, Number: 1, Nodes: []*domain.CacheNode{node("d", 0), node("e", 7)}}}
	case i%7 == 5 && i/7%3 == 1:
		return []any{codec.RestoreAbort{ID: id}, codec.RestoreCommit{ID: id, Parts: 2}}
	case i%7 == 5 && i/7%3 == 2:
		return []any{codec.RestoreCommit{ID: id, Parts: 2, Expected: new(domain.Revision(math.MaxUint64))}}
	case i%7 == 5:
		return []any{codec.RestoreCommit{ID: id, Parts: 2}}
	}
	return nil
}

// applyEntries applies entries to a machine, and returns the outcomes.
func applyEntries(t *testing.T, m *machine, entries ...any) []outcome {
	t.Helper()
	outcomes := make([]outcome, len(entries))
	for i, entry := range entries {
		outcomes[i] = m.Apply(&raft.Log{Index: m.applied + 1, Term: 1, Type: raft.LogCommand, Data: codec.EncodeEntry(entry)}).(outcome)
	}
	return outcomes
}

func TestARestoreIsAllOrNothing(t *testing.T) {
	first, second := domaintest.Node(t, "a", "h:1"), domaintest.Node(t, "b", "h:2")
	second.Slot = 1
	part := func(id string, number int, nodes ...*domain.CacheNode) codec.RestorePart {
		return codec.RestorePart{ID: id, Number: number, Nodes: nodes}
	}
	tests := map[string]struct {
		steps []any
		err   error // of the last step
		nodes int
	}{
		"all parts and the commit":               {[]any{part("r", 0, &first), part("r", 1, &second), codec.RestoreCommit{ID: "r", Parts: 2}}, nil, 2},
		"a part that is missing":                 {[]any{part("r", 0, &first), codec.RestoreCommit{ID: "r", Parts: 2}}, errNotStaged, 0},
		"a part too many":                        {[]any{part("r", 0, &first), part("r", 1, &second), codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 0},
		"a second part without the first":        {[]any{part("r", 1, &second)}, errNotStaged, 0},
		"a part that is skipped":                 {[]any{part("r", 0, &first), part("r", 2, &second)}, errNotStaged, 0},
		"a part that comes twice":                {[]any{part("r", 0, &first), part("r", 1, &second), part("r", 1, &second)}, errNotStaged, 0},
		"a commit without parts":                 {[]any{codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 0},
		"a commit of another restore":            {[]any{part("r", 0, &first), codec.RestoreCommit{ID: "s", Parts: 1}}, errNotStaged, 0},
		"a second commit":                        {[]any{part("r", 0, &first), codec.RestoreCommit{ID: "r", Parts: 1}, codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 1},
		"a commit after its abort":               {[]any{part("r", 0, &first), codec.RestoreAbort{ID: "r"}, codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 0},
		"a commit after another's abort":         {[]any{part("r", 0, &first), codec.RestoreAbort{ID: "s"}, codec.RestoreCommit{ID: "r", Parts: 1}}, nil, 1},
		"a commit after a later restore began":   {[]any{part("r", 0, &first), part("s", 0, &second), codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 0},
		"a commit of the later restore":          {[]any{part("r", 0, &first), part("s", 0, &second), part("r", 1), codec.RestoreCommit{ID: "s", Parts: 1}}, nil, 1},
		"a commit after a change of leaders":     {[]any{part("r", 0, &first), codec.Opening{}, codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 0},
		"a commit at the expected revision":      {[]any{part("r", 0, &first), codec.RestoreCommit{ID: "r", Parts: 1, Expected: new(domain.Revision(0))}}, nil, 1},
		"a commit at another revision":           {[]any{part("r", 0, &first), codec.RestoreCommit{ID: "r", Parts: 1, Expected: new(domain.Revision(1))}}, domain.ErrConditionFailed, 0},
		"a commit after one at another revision": {[]any{part("r", 0, &first), codec.RestoreCommit{ID: "r", Parts: 1, Expected: new(domain.Revision(1))}, codec.RestoreCommit{ID: "r", Parts: 1}}, errNotStaged, 0},
		"nodes that are out of order":            {[]any{part("r", 0, &second), part("r", 1, &first)}, domain.ErrInvalid, 0},
		"a commit of nodes out of order":         {[]any{part("r", 0, &second), part("r", 1, &first), codec.RestoreCommit{ID: "r", Parts: 2}}, errNotStaged, 0},
		"a restore of an empty registry":         {[]any{part("r", 0), codec.RestoreCommit{ID: "r", Parts: 1}}, nil, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			outcomes := applyEntries(t, m, test.steps...)
			if last := outcomes[len(outcomes)-1]; !errors.Is(last.err, test.err) {
				t.Errorf("outcome of the last step = %v, want errNotStaged or the refusal, if any", last.err)
			}
			if view := m.state.read().View; view.Len() != test.nodes || view.Revision() != domain.Revision(test.nodes) {
				t.Errorf("view = %d nodes at revision %d, want %d", view.Len(), view.Revision(), test.nodes)
			}
		})
	}
}

// A snapshot that is being written must not change with later entries.
func TestASnapshotOfARestoreStaysAsItIs(t *testing.T) {
	m := testMachine(t)
	first, second := domaintest.Node(t, "a", "h:1"), domaintest.Node(t, "b", "h:2")
	second.Slot = 1
	applyEntries(t, m, codec.RestorePart{ID: "r", Nodes: []*domain.CacheNode{&first}})
	before, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	want := machineSnapshot(t, m)
	applyEntries(t, m, codec.RestorePart{ID: "r", Number: 1, Nodes: []*domain.CacheNode{&second}}, codec.RestoreCommit{ID: "r", Parts: 2})
	sink := &memorySink{}
	if err := before.Persist(sink); err != nil || !bytes.Equal(sink.Bytes(), want) {
		t.Errorf("Persist = %v, or the earlier snapshot changed", err)
	}

	// An instance that starts from this snapshot goes on with the restore.
	other := testMachine(t)
	if err := other.Restore(io.NopCloser(bytes.NewReader(want))); err != nil {
		t.Fatal(err)
	}
	outcomes := applyEntries(t, other, codec.RestorePart{ID: "r", Number: 1, Nodes: []*domain.CacheNode{&second}}, codec.RestoreCommit{ID: "r", Parts: 2})
	mustEqual(t, "the outcome of the commit", outcomes[1], outcome{replaced: domain.Replaced{Revision: 2, Added: 2}})
	if !bytes.Equal(machineSnapshot(t, other), machineSnapshot(t, m)) {
		t.Error("the snapshots of the two machines differ")
	}
}

func TestARestoreThatIsCutOffChangesNothingAndLeavesNothing(t *testing.T) {
	cluster := startCluster(t, 2, func(config *instanceConfig) { config.hooks.restorePartBytes = 256 })
	tellFormats(t, cluster)
	leader := cluster[0]
	with := domain.NewReplacement()
	for i := range 2000 {
		n := domaintest.Node(t, fmt.Sprintf("node%04d", i), fmt.Sprintf("h%d:1", i))
		n.Slot = i
		if err := with.Add(&n); err != nil {
			t.Fatal(err)
		}
	}
	result := make(chan error, 1)
	go func() {
		_, err := leader.Replace(t.Context(), with, nil)
		result <- err
	}()
	applied := leader.state.read().Applied
	leader.eventually(t, "past the first parts", func(s ports.LocalState) bool { return s.Applied > applied+3 })
	if err := leader.HandOver(within(t), ""); err != nil {
		t.Fatal(err)
	}
	err := <-result
	if err == nil {
		t.Fatal("the restore ended before the transfer, so the test shows nothing")
	}
	if !errors.Is(err, ports.ErrNotLeader) && !errors.Is(err, ports.ErrNoLeader) && !errors.Is(err, ports.ErrBusy) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("Restore = %v, want no leader or busy, and no unknown outcome", err)
	}
	next := leaderOf(t, cluster)
	view, err := next.Read(within(t))
	if err != nil || view.Len() != 0 || view.Revision() != 0 {
		t.Errorf("view = %d nodes at revision %d, %v, want none at 0", view.Len(), view.Revision(), err)
	}
	mustBeAlike(t, cluster...)
}

// A node that is larger than a part gets a part of its own.
func TestARestoreIsCutIntoParts(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir()})
	t.Cleanup(func() { i.stop(t) })
	node := domaintest.Node(t, "a", "h:1")
	size := codec.NodeSize(&node)
	for name, test := range map[string]struct{ most, nodes, length int }{
		"all nodes fit":              {most: 3 * size, nodes: 3, length: 3},
		"all nodes but one fit":      {most: 3*size - 1, nodes: 3, length: 2},
		"each node is too large":     {most: size - 1, nodes: 3, length: 1},
		"there are no nodes":         {most: size, nodes: 0, length: 0},
		"the last node is too large": {most: size - 1, nodes: 1, length: 1},
	} {
		i.hooks.restorePartBytes = test.most
		if got := i.partLength(slices.Repeat([]*domain.CacheNode{&node}, test.nodes)); got != test.length {
			t.Errorf("%s: partLength = %d, want %d", name, got, test.length)
		}
	}
}

// A part changes nothing, whether it is in the log or not.
func TestARestoreThatEndsBeforeItsCommitSaysThatNothingHappened(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(giveUp context.CancelFunc, network *network, other *instance)
		want error
	}{
		"the caller gives up": {func(giveUp context.CancelFunc, _ *network, _ *instance) { giveUp() }, context.Canceled},
		"leadership ends": {func(_ context.CancelFunc, fabric *network, other *instance) {
			fabric.cut(raft.ServerAddress(other.raftAddress()))
		}, ports.ErrNoLeader},
	} {
		t.Run(name, func(t *testing.T) {
			hold, fabric := newEntryHold(), newNetwork()
			cluster := startCluster(t, 2, func(config *instanceConfig) {
				config.hooks.transport = func(inner transport) transport {
					return heartbeatsOnly{&faulty{inner, fabric}, hold}
				}
			})
			t.Cleanup(hold.release) // before the cluster is stopped
			tellFormats(t, cluster)
			leader := cluster[0]
			hold.on.Store(true)
			ctx, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			before, result := leader.raft.LastIndex(), make(chan error, 1)
			go func() {
				_, err := leader.Replace(ctx, domain.NewReplacement(), nil)
				result <- err
			}()
			until(t, "the first part is in the log", func() bool { return leader.raft.LastIndex() > before })
			test.end(giveUp, fabric, cluster[1])
			until(t, "the restore is given up", func() bool { return leader.raft.LastIndex() > before+1 || !leader.isLeader() })
			hold.release()
			if err := receive(t, result, "the restore does not end"); !errors.Is(err, test.want) || strings.Contains(err.Error(), ports.ErrOutcomeUnknown.Error()) {
				t.Errorf("Replace = %v, want %v and no mention of an unknown outcome", err, test.want)
			}
		})
	}
}
