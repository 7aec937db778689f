package consensus

import (
	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
)

// verifyLog returns an error if an entry that was read is not as it was written. Only entries
// of the state machine have a checksum.
func verifyLog(entry *raft.Log) error {
	if entry.Type != raft.LogCommand {
		return nil
	}
	return codec.VerifyEntry(entry.Data)
}
