package consensus

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// machine is raft's state machine: it decodes committed entries, lets the domain
// apply them, and posts the outcome. Raft calls it from one goroutine.
type machine struct {
	registry  *domain.Registry
	clusterID string
	applied   uint64
	openTerm  uint64
	// promotions are the ids of instances to be promoted to voters, in ascending order. The
	// slice is never modified, as readers of the shared state have it too.
	promotions []string
	// rosters are the latest committed memberships, for LocalState.Committed. The slice is
	// never modified, either.
	rosters []ports.CommittedRoster
	// preloaded is a snapshot that was read before raft asks for it; nil for none.
	preloaded *preloadedSnapshot
	// staged holds the parts of a restore that have arrived; nil while there is none.
	staged *staging
	// written is the highest format of the applied entries.
	written int
	// unpublished is how many changes are applied and not yet in the shared state.
	unpublished int

	state    *sharedState
	observer Observer
	// formatOf returns the format of an entry.
	formatOf func(entry any) int
	// afterApply is called when entries were applied.
	afterApply func()
	// dropReplaced is called when a snapshot was read, before its state is taken: it
	// removes what the snapshot replaces in the log.
	dropReplaced func(index, term uint64) error
	// halt is called when an entry can't be applied. It returns only when this instance is
	// shutting down: if it went on, its state would diverge from the others'.
	halt func(error)
	// halted is the reason of the halt; from then on nothing is applied and no snapshot is
	// made. Raft goes on asking for both while it shuts down.
	halted error
}

// preloadedSnapshot is a snapshot in memory. Only one machine may load it, as it then
// modifies it.
type preloadedSnapshot struct {
	id string
	codec.Restored
}

func newMachine(state *sharedState, halt func(error)) *machine {
	return &machine{
		registry:     domain.NewRegistry(),
		state:        state,
		observer:     unobserved{},
		formatOf:     codec.FormatOf,
		afterApply:   func() {},
		dropReplaced: func(uint64, uint64) error { return nil },
		halt:         halt,
	}
}

// outcome is the response of an entry's future. A codec.CommandGroup responds with one
// outcome for each command, or with a single one if it can't be applied.
type outcome struct {
	changes  []domain.Change
	replaced domain.Replaced // by the commit of a restore
	err      error
}

// Apply implements raft.FSM. Raft uses ApplyBatch.
func (m *machine) Apply(entry *raft.Log) any { return m.ApplyBatch([]*raft.Log{entry})[0] }

// publishEvery is about how many changes are published at once. If it were more than the
// history holds, subscribers would have to begin anew.
const publishEvery = domain.HistoryLength / 10

// ApplyBatch implements raft.BatchingFSM. It publishes the state once for the whole batch,
// or more often if that makes very many changes.
func (m *machine) ApplyBatch(entries []*raft.Log) []any {
	began := time.Now()
	outcomes := make([]any, len(entries))
	for i, entry := range entries {
		switch entry.Type {
		case raft.LogCommand:
			outcomes[i] = m.apply(entry)
		case raft.LogConfiguration:
			m.recordMembership(entry)
		}
		if m.halted == nil {
			m.applied = entry.Index
		}
		if m.unpublished >= publishEvery {
			m.publish()
		}
	}
	m.publish()
	m.afterApply()
	m.observer.Applied(len(entries), time.Since(began))
	return outcomes
}

func (m *machine) apply(entry *raft.Log) any {
	if m.halted != nil {
		return m.outcomeUnknown()
	}
	decoded, err := codec.DecodeEntry(entry.Data)
	if err != nil {
		m.halted = fmt.Errorf("log entry %d of term %d can't be applied: %w", entry.Index, entry.Term, err)
		m.halt(m.halted)
		return m.outcomeUnknown()
	}
	m.written = max(m.written, m.formatOf(decoded))
	switch decoded := decoded.(type) {
	case codec.Opening:
		m.openTerm = entry.Term
		m.staged = nil // the earlier leader can't go on with its restore
		if m.clusterID == "" {
			m.clusterID = decoded.ClusterID
		}
		return outcome{}
	case codec.Promotion:
		m.promote(decoded)
		return outcome{}
	case codec.RestorePart:
		return outcome{err: m.stage(decoded)}
	case codec.RestoreCommit:
		return m.commit(decoded)
	case codec.RestoreAbort:
		m.abort(decoded)
		return outcome{}
	case domain.Command:
		return m.applyCommand(decoded)
	case codec.CommandGroup:
		outcomes := make([]outcome, len(decoded))
		for i, cmd := range decoded {
			outcomes[i] = m.applyCommand(cmd)
		}
		return outcomes
	}
	panic(fmt.Sprintf("consensus: an entry decodes to %T, which nobody applies", decoded))
}

func (m *machine) applyCommand(cmd domain.Command) outcome {
	changes, err := m.registry.Apply(cmd)
	m.unpublished += len(changes)
	return outcome{changes: changes, err: err}
}

func (m *machine) promote(p codec.Promotion) {
	at, wanted := slices.BinarySearch(m.promotions, p.ID)
	switch {
	case wanted && p.Settled:
		m.promotions = slices.Delete(slices.Clone(m.promotions), at, at+1)
	case !wanted && !p.Settled:
		m.promotions = slices.Insert(slices.Clone(m.promotions), at, p.ID)
	}
}

// maxRosters is how many memberships are kept for readers that look a moment later.
const maxRosters = 64

// recordMembership records a committed membership. Raft hands them over in log order.
func (m *machine) recordMembership(entry *raft.Log) {
	membership, err := decodeConfiguration(entry.Data)
	if err != nil {
		return // can't be: raft has decoded it before
	}
	next := append(slices.Clone(m.rosters), ports.CommittedRoster{Index: entry.Index, Roster: rosterOf(membership)})
	m.rosters = next[max(0, len(next)-maxRosters):]
}

// outcomeUnknown is the outcome of an entry that is committed, so that others apply it, but
// that this instance can't apply.
func (m *machine) outcomeUnknown() outcome {
	return outcome{err: fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, m.halted)}
}

func (m *machine) publish() {
	m.unpublished = 0
	m.state.update(func(n *localState) {
		n.View = m.registry.View()
		n.Applied = m.applied
		n.openTerm = m.openTerm
		n.Promotions = m.promotions
		n.written = m.written
		n.Committed = m.rosters
		if m.clusterID != "" {
			n.ClusterID = m.clusterID
		}
	})
}

// Snapshot implements raft.FSM. It is fast, because a view is immutable.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.halted != nil {
		// Raft has handed over entries that were not applied: it would take this for the
		// state after them, and remove them from the log.
		return nil, m.halted
	}
	return fsmSnapshot{codec.Snapshot{
		View:      m.registry.View(),
		ClusterID: m.clusterID,
		Applied:   m.applied,
		OpenTerm:  m.openTerm,

		Promotions: m.promotions,
		Staged:     m.staged.freeze(),
	}}, nil
}

// loadSnapshot returns the preloaded snapshot if it is the one that raft hands over, whose
// checksum was verified again when it was opened; otherwise it reads that.
func (m *machine) loadSnapshot(snapshot io.Reader, meta *raft.SnapshotMeta) (codec.Restored, error) {
	ready := m.preloaded
	m.preloaded = nil
	if ready != nil && meta != nil && meta.ID == ready.id {
		return ready.Restored, nil
	}
	return codec.ReadSnapshot(snapshot)
}

// setState replaces the state of the machine with that of a snapshot.
func (m *machine) setState(read codec.Restored) {
	m.registry = read.Registry
	m.clusterID, m.applied, m.openTerm = read.ClusterID, read.Applied, read.OpenTerm
	m.promotions, m.staged = read.Promotions, stagingFrom(read)
}

// Restore implements raft.FSM. It replaces nothing before the whole snapshot is read and
// verified; readers see the old state until then.
func (m *machine) Restore(snapshot io.ReadCloser) error {
	meta, known := metaOf(snapshot)
	read, err := m.loadSnapshot(snapshot, meta)
	if err == nil && known {
		err = m.dropReplaced(meta.Index, meta.Term)
	}
	if err != nil {
		return err
	}
	m.setState(read)
	m.rosters = nil
	if known {
		m.rosters = []ports.CommittedRoster{{Index: meta.ConfigurationIndex, Roster: rosterOf(meta.Configuration)}}
	}
	m.publish()
	return nil
}

// fsmSnapshot is the state of the machine at one moment. It implements raft.FSMSnapshot.
type fsmSnapshot struct{ image codec.Snapshot }

// Persist implements raft.FSMSnapshot.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := codec.WriteSnapshot(sink, s.image); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s fsmSnapshot) Release() {}
