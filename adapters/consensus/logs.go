package consensus

import "github.com/hashicorp/raft"

// logs is the disk behind raft's cache, which keeps of an error only its text: who
// waits for an entry must be able to tell that nothing was written.
type logs struct {
	*raft.LogCache
	disk *disk
}

func newLogs(d *disk) (logs, error) {
	cache, err := raft.NewLogCache(cachedEntries, d)
	return logs{LogCache: cache, disk: d}, err
}

// StoreLogs implements raft.LogStore.
func (l logs) StoreLogs(entries []*raft.Log) error {
	if l.LogCache.StoreLogs(entries) != nil {
		return l.disk.appended
	}
	return nil
}
