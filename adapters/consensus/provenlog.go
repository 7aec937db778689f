package consensus

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// provenLog gives no entry that is not as it was written: raft would send it to
// others. Its disk can't be relied on any more, so the instance ends; at the next
// start it sets aside what is damaged.
type provenLog struct {
	logstore.Store
	fail func(error)
}

// GetLog implements raft.LogStore.
func (p provenLog) GetLog(index uint64, entry *raft.Log) error {
	err := p.Store.GetLog(index, entry)
	if err == nil && entry.Index != index {
		err = fmt.Errorf("it says that it is entry %d", entry.Index)
	}
	if err == nil && entry.Type == raft.LogCommand {
		_, err = verifyChecksum(entry.Data)
	}
	if err == nil || err == raft.ErrLogNotFound || err == logstore.ErrClosed {
		return err
	}
	err = fmt.Errorf("log entry %d can't be read as it was written: %w", index, err)
	p.fail(err)
	return err
}
