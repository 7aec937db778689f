package consensus

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"

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
	// promotions are the ids of those who are to be voters, in ascending order.
	// Never modified: it is shared with the readers of the shared state.
	promotions []string
	// rosters are the latest memberships, for LocalState.Committed. Never modified,
	// like promotions.
	rosters []ports.CommittedRoster
	// prepared is a snapshot that was read before raft asks for it; nil for none.
	prepared *prepared
	// staged is what has arrived of a restore; nil while there is none.
	staged *staging
	// written is the latest format that an applied entry took.
	written int
	// unposted is how many changes nobody has been told of.
	unposted int

	state    *sharedState
	observer Observer
	// formatOf says which format an entry takes.
	formatOf func(entry any) int
	// posted is called when entries were applied.
	posted func()
	// replaces is called when a snapshot was read, before its state is taken: it removes
	// what the snapshot replaces in the log.
	replaces func(index, term uint64) error
	// halt is called when an entry can't be applied. It does not return before
	// this instance is shutting down: to go on would let it drift apart from
	// the others.
	halt func(error)
	// halted is why; from then on nothing is applied and no snapshot made. Raft
	// goes on asking for both while it is shutting down.
	halted error
}

// prepared is what a snapshot holds. Whoever takes it changes it.
type prepared struct {
	id string
	restored
}

func newMachine(b *sharedState, halt func(error)) *machine {
	return &machine{
		registry: domain.NewRegistry(),
		state:    b,
		observer: unobserved{},
		formatOf: formatOf,
		posted:   func() {},
		replaces: func(uint64, uint64) error { return nil },
		halt:     halt,
	}
}

// outcome is what an entry's future answers. One that is shared answers with as many as it
// has commands, unless it can't be applied.
type outcome struct {
	changes  []domain.Change
	replaced domain.Replaced // by the commit of a restore
	err      error
}

// Apply implements raft.FSM. Raft uses ApplyBatch.
func (m *machine) Apply(entry *raft.Log) any { return m.ApplyBatch([]*raft.Log{entry})[0] }

// postEvery is how many changes are told at once, about. Whoever follows them would have to
// begin anew if it were more than the history has.
const postEvery = domain.HistoryLength / 10

// ApplyBatch implements raft.BatchingFSM. It posts once for the whole batch, unless that
// makes very many changes.
func (m *machine) ApplyBatch(entries []*raft.Log) []any {
	began := time.Now()
	outcomes := make([]any, len(entries))
	for i, entry := range entries {
		switch entry.Type {
		case raft.LogCommand:
			outcomes[i] = m.apply(entry)
		case raft.LogConfiguration:
			m.note(entry)
		}
		if m.halted == nil {
			m.applied = entry.Index
		}
		if m.unposted >= postEvery {
			m.post()
		}
	}
	m.post()
	m.posted()
	m.observer.Applied(len(entries), time.Since(began))
	return outcomes
}

func (m *machine) apply(entry *raft.Log) any {
	if m.halted != nil {
		return m.unknown()
	}
	decoded, err := decodeEntry(entry.Data)
	if err != nil {
		m.halted = fmt.Errorf("log entry %d of term %d can't be applied: %w", entry.Index, entry.Term, err)
		m.halt(m.halted)
		return m.unknown()
	}
	m.written = max(m.written, m.formatOf(decoded))
	switch decoded := decoded.(type) {
	case opening:
		m.openTerm = entry.Term
		m.staged = nil // who led before can't go on with it
		if m.clusterID == "" {
			m.clusterID = decoded.ClusterID
		}
		return outcome{}
	case promotion:
		m.promote(decoded)
		return outcome{}
	case restorePart:
		return outcome{err: m.stage(decoded)}
	case restoreCommit:
		return m.commit(decoded)
	case restoreAbort:
		m.abort(decoded)
		return outcome{}
	case domain.Command:
		return m.carryOut(decoded)
	case shared:
		outcomes := make([]outcome, len(decoded))
		for i, cmd := range decoded {
			outcomes[i] = m.carryOut(cmd)
		}
		return outcomes
	}
	panic(fmt.Sprintf("consensus: an entry decodes to %T, which nobody applies", decoded))
}

func (m *machine) carryOut(cmd domain.Command) outcome {
	changes, err := m.registry.Apply(cmd)
	m.unposted += len(changes)
	return outcome{changes: changes, err: err}
}

func (m *machine) promote(p promotion) {
	at, wanted := slices.BinarySearch(m.promotions, p.ID)
	switch {
	case wanted && p.Settled:
		m.promotions = slices.Delete(slices.Clone(m.promotions), at, at+1)
	case !wanted && !p.Settled:
		m.promotions = slices.Insert(slices.Clone(m.promotions), at, p.ID)
	}
}

// maxRosters is how many memberships are remembered for those who look a moment later.
const maxRosters = 64

// note remembers a membership. Raft hands them over in the order of the log.
func (m *machine) note(entry *raft.Log) {
	membership, err := decodeConfiguration(entry.Data)
	if err != nil {
		return // raft reads it before, and does not go on
	}
	next := append(slices.Clone(m.rosters), ports.CommittedRoster{Index: entry.Index, Roster: rosterOf(membership)})
	m.rosters = next[max(0, len(next)-maxRosters):]
}

// unknown is the outcome of an entry that is committed, so that others carry it
// out, while this instance can't say what that does.
func (m *machine) unknown() outcome {
	return outcome{err: errors.Join(ports.ErrOutcomeUnknown, m.halted)}
}

func (m *machine) post() {
	m.unposted = 0
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

// Snapshot implements raft.FSM. It takes no time: a view never changes.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.halted != nil {
		// Raft has handed over more than was applied: it would keep this as the
		// state after entries that are not in it, and drop those from the log.
		return nil, m.halted
	}
	return image{
		view:      m.registry.View(),
		clusterID: m.clusterID,
		applied:   m.applied,
		openTerm:  m.openTerm,

		promotions: m.promotions,
		staged:     m.staged.seen(),
	}, nil
}

// take reads a snapshot, unless it is prepared: raft has proven it once more when it
// opened it.
func (m *machine) take(snapshot io.Reader, meta *raft.SnapshotMeta) (restored, error) {
	ready := m.prepared
	m.prepared = nil
	if ready != nil && meta != nil && meta.ID == ready.id {
		return ready.restored, nil
	}
	return readSnapshot(snapshot)
}

// hold makes what was read of a snapshot the state of the machine.
func (m *machine) hold(read restored) {
	m.registry = read.registry
	m.clusterID, m.applied, m.openTerm = read.clusterID, read.applied, read.openTerm
	m.promotions, m.staged = read.promotions, read.staging
}

// Restore implements raft.FSM. Nothing is replaced before the whole snapshot is
// read and proven; readers see the old state until then.
func (m *machine) Restore(snapshot io.ReadCloser) error {
	meta, known := metaOf(snapshot)
	read, err := m.take(snapshot, meta)
	if err == nil && known {
		err = m.replaces(meta.Index, meta.Term)
	}
	if err != nil {
		return err
	}
	m.hold(read)
	m.rosters = nil
	if known {
		m.rosters = []ports.CommittedRoster{{Index: meta.ConfigurationIndex, Roster: rosterOf(meta.Configuration)}}
	}
	m.post()
	return nil
}

// Persist implements raft.FSMSnapshot.
func (im image) Persist(sink raft.SnapshotSink) error {
	if err := writeSnapshot(sink, im); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (im image) Release() {}
