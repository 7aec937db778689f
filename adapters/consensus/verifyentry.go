package consensus

import "github.com/hashicorp/raft"

// verifyEntry returns an error if an entry that was read is not as it was written. Only
// those of the state machine bear a checksum.
func verifyEntry(entry *raft.Log) error {
	if entry.Type != raft.LogCommand {
		return nil
	}
	_, err := verifyChecksum(entry.Data)
	return err
}
