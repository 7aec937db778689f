package consensus

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/frames"
)

// malformed returns why raft must not get a peer's request: raft would panic over it, or
// store it, and panic at each start.
func malformed(command any) error {
	switch request := command.(type) {
	case *raft.AppendEntriesRequest:
		for _, entry := range request.Entries {
			if entry == nil {
				return fmt.Errorf("%w: an entry is missing", frames.ErrHostile)
			}
			if entry.Type == raft.LogConfiguration {
				if _, err := decodeConfiguration(entry.Data); err != nil {
					return fmt.Errorf("%w: entry %d: %w", frames.ErrHostile, entry.Index, err)
				}
			}
		}
	case *raft.InstallSnapshotRequest:
		if request.SnapshotVersion > 0 {
			if _, err := decodeConfiguration(request.Configuration); err != nil {
				return fmt.Errorf("%w: a snapshot: %w", frames.ErrHostile, err)
			}
		}
	}
	return nil
}

// refuse answers rpc with an error, after it has read the snapshot that may follow.
func refuse(rpc raft.RPC, why error) {
	if rpc.Reader != nil {
		_, _ = io.Copy(io.Discard, rpc.Reader) // what fails here fails with the connection
	}
	rpc.Respond(nil, why)
}
