package consensus

import (
	"io"

	"github.com/hashicorp/raft"
)

// metaAttacher is a snapshot store whose snapshots carry their metadata. The state machine
// takes the committed membership from that: raft hands it only the state.
type metaAttacher struct{ raft.SnapshotStore }

// Open implements raft.SnapshotStore.
func (d metaAttacher) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, state, err := d.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, stateWithMeta{state, meta}, nil
}

// stateWithMeta is the state of a snapshot that was opened by metaAttacher.
type stateWithMeta struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}

// metaOf returns the metadata of a snapshot that raft hands over; false if the snapshot was
// not opened by metaAttacher.
func metaOf(state io.ReadCloser) (*raft.SnapshotMeta, bool) {
	if wrapped, ok := state.(raft.ReadCloserWrapper); ok {
		state = wrapped.WrappedReadCloser()
	}
	found, ok := state.(stateWithMeta)
	return found.meta, ok
}
