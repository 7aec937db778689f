package consensus

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// What was read at the start is not read again, and is nobody else's.
func TestAPreparedSnapshotIsTakenOnce(t *testing.T) {
	one, two := domain.Register{Node: minimalNode(t, "a", "h:1")}, domain.Register{Node: minimalNode(t, "b", "h:2")}
	read := restoredFrom(t, snapshotOf(t, imageOf(registryAfter(one))))
	later := snapshotOf(t, imageOf(registryAfter(one, two)))
	restore := func(m *machine, id string, state []byte) error {
		return m.Restore(stateWithMeta{io.NopCloser(bytes.NewReader(state)), &raft.SnapshotMeta{ID: id}})
	}
	m := testMachine(t)
	m.preloaded = &preloadedSnapshot{"first", read}
	if err := restore(m, "first", nil); err != nil || m.registry.View().Len() != 1 {
		t.Fatalf("it has %d nodes, %v", m.registry.View().Len(), err)
	}
	if err := restore(m, "first", nil); err == nil {
		t.Error("it is taken again, and what was done to it since with it")
	}

	m.preloaded = &preloadedSnapshot{"first", read}
	if err := restore(m, "second", later); err != nil || m.registry.View().Len() != 2 {
		t.Errorf("instead of another one: %d nodes, %v", m.registry.View().Len(), err)
	}
	if m.preloaded != nil {
		t.Error("it is kept, and will not be asked for any more")
	}
}
