package consensus

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// getProven reads an entry and verifies that it is as it was written: raft would send a
// damaged one to others.
func getProven(log raft.LogStore, index uint64, entry *raft.Log) error {
	if err := log.GetLog(index, entry); err != nil {
		return err
	}
	if entry.Index != index {
		return fmt.Errorf("it says that it is entry %d", entry.Index)
	}
	if entry.Type != raft.LogCommand {
		return nil
	}
	_, err := verifyChecksum(entry.Data)
	return err
}
