package consensus

import (
	"io"

	"github.com/hashicorp/raft"
)

// describing gives snapshots that tell the state machine which membership was
// committed with them: raft restores it from the state alone.
type describing struct{ raft.SnapshotStore }

// Open implements raft.SnapshotStore.
func (d describing) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, state, err := d.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, described{state, meta}, nil
}

type described struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}

// description finds the membership in what raft hands over; false where it did
// not come through describing.
func description(state io.ReadCloser) (*raft.SnapshotMeta, bool) {
	if wrapped, ok := state.(raft.ReadCloserWrapper); ok {
		state = wrapped.WrappedReadCloser()
	}
	found, ok := state.(described)
	return found.meta, ok
}
