package disk

import (
	"sync"

	"github.com/hashicorp/raft"
)

const (
	// cachedEntries is how many of the latest entries are cached.
	cachedEntries = 1024
	// cachedBytes and MaxCachedEntry bound the memory of the cache: a group of writes shares
	// one entry, and the parts of a restore are entries of a quarter of a megabyte, which
	// are read once.
	cachedBytes = 256 << 10
)

// MaxCachedEntry is how many bytes of data an entry may have to be cached. A longer entry is
// always read from the disk.
const MaxCachedEntry = 32 << 10

// entryCache is the disk behind a cache of the latest entries, which raft reads to replicate
// and to apply them. raft.LogCache does the same, but caches entries of any length, empties
// itself when the log's beginning is removed, and hides the type of an error, from which
// callers learn that nothing was written. Safe for concurrent use.
type entryCache struct {
	*watch

	mu      sync.RWMutex
	entries [cachedEntries]*raft.Log // by index modulo cachedEntries; nil where empty
	bytes   int                      // of their data
}

// GetLog implements raft.LogStore.
func (c *entryCache) GetLog(index uint64, log *raft.Log) error {
	c.mu.RLock()
	cached := c.entries[index%cachedEntries]
	c.mu.RUnlock()
	if cached != nil && cached.Index == index {
		*log = *cached
		return nil
	}
	return c.watch.GetLog(index, log)
}

// StoreLog implements raft.LogStore.
func (c *entryCache) StoreLog(entry *raft.Log) error { return c.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (c *entryCache) StoreLogs(entries []*raft.Log) error {
	if err := c.watch.StoreLogs(entries); err != nil {
		return err
	}
	c.cache(entries)
	return nil
}

// storeUntilDone retries until entries are stored.
func (c *entryCache) storeUntilDone(entries []*raft.Log) {
	if c.watch.StoreLogs(entries) != nil {
		c.watch.storeUntilDone(entries)
	}
	c.cache(entries)
}

func (c *entryCache) cache(entries []*raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, entry := range entries {
		c.put(entry.Index, entry)
		for behind := uint64(1); c.bytes > cachedBytes && behind < cachedEntries; behind++ {
			c.put(entry.Index+behind, nil) // the slot of the oldest entry
		}
	}
}

// put sets the slot of index; a nil entry empties it. The caller holds mu.
func (c *entryCache) put(index uint64, entry *raft.Log) {
	at := &c.entries[index%cachedEntries]
	if *at != nil {
		c.bytes -= len((*at).Data)
	}
	*at = nil
	if entry != nil && len(entry.Data) <= MaxCachedEntry {
		*at = entry
		c.bytes += len(entry.Data)
	}
}

// DeleteRange implements raft.LogStore. It drops entries from the cache first, whether or
// not removing them from the disk succeeds.
func (c *entryCache) DeleteRange(from, to uint64) error {
	c.mu.Lock()
	for _, entry := range c.entries {
		if entry != nil && entry.Index >= from && entry.Index <= to {
			c.put(entry.Index, nil)
		}
	}
	c.mu.Unlock()
	return c.watch.DeleteRange(from, to)
}
