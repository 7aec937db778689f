package consensus

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

// A snapshot that was decoded at the start is used only once, and only for itself.
func TestAPreparedSnapshotIsTakenOnce(t *testing.T) {
	one, two := domain.Register{Node: domaintest.Node(t, "a", "h:1")}, domain.Register{Node: domaintest.Node(t, "b", "h:2")}
	read := restoredFrom(t, snapshotOf(t, imageOf(domaintest.RegistryAfter(one))))
	later := snapshotOf(t, imageOf(domaintest.RegistryAfter(one, two)))
	restore := func(m *machine, id string, state []byte) error {
		return m.Restore(stateWithMeta{io.NopCloser(bytes.NewReader(state)), &raft.SnapshotMeta{ID: id}})
	}
	m := testMachine(t)
	m.preloaded = &preloadedSnapshot{"first", read}
	if err := restore(m, "first", nil); err != nil || m.registry.View().Len() != 1 {
		t.Fatalf("restore of the prepared snapshot = %d nodes, %v, want 1", m.registry.View().Len(), err)
	}
	if err := restore(m, "first", nil); err == nil {
		t.Error("second restore = nil error, want an error: the prepared state has changed since")
	}

	m.preloaded = &preloadedSnapshot{"first", read}
	if err := restore(m, "second", later); err != nil || m.registry.View().Len() != 2 {
		t.Errorf("restore of another snapshot = %d nodes, %v, want 2", m.registry.View().Len(), err)
	}
	if m.preloaded != nil {
		t.Error("the prepared snapshot is kept after another was restored")
	}
}
