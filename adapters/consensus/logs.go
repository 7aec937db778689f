package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

const (
	// cachedEntries spares the log store the reading of what was just written.
	cachedEntries = 1024
	// cachedBytes and longestCached bound the memory of that: many writes may share an
	// entry, and what a registry is restored with makes entries of half a megabyte, which are
	// read once.
	cachedBytes   = 256 << 10
	longestCached = 32 << 10
)

// logs is the disk behind a cache of the latest entries, which raft reads to replicate
// and to apply them. raft.LogCache is one, but keeps entries of any length, nothing
// when the log's beginning is removed, and of an error only the text: who waits for an
// entry must be able to tell that nothing was written. Safe for concurrent use.
type logs struct {
	*disk

	mu     sync.RWMutex
	latest [cachedEntries]*raft.Log // by index; nil where there is none
	bytes  int                      // of their data
}

// GetLog implements raft.LogStore.
func (l *logs) GetLog(index uint64, log *raft.Log) error {
	l.mu.RLock()
	cached := l.latest[index%cachedEntries]
	l.mu.RUnlock()
	if cached != nil && cached.Index == index {
		*log = *cached
		return nil
	}
	return l.disk.GetLog(index, log)
}

// StoreLog implements raft.LogStore.
func (l *logs) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l *logs) StoreLogs(entries []*raft.Log) error {
	if err := l.disk.StoreLogs(entries); err != nil {
		return err
	}
	l.remember(entries)
	return nil
}

// keep stores entries for as long as it takes.
func (l *logs) keep(entries []*raft.Log) {
	if l.disk.StoreLogs(entries) != nil {
		l.disk.insist(entries)
	}
	l.remember(entries)
}

func (l *logs) remember(entries []*raft.Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entry := range entries {
		l.put(entry.Index, entry)
		for behind := uint64(1); l.bytes > cachedBytes && behind < cachedEntries; behind++ {
			l.put(entry.Index+behind, nil) // in whose place the oldest is
		}
	}
}

// put needs the lock.
func (l *logs) put(index uint64, entry *raft.Log) {
	at := &l.latest[index%cachedEntries]
	if *at != nil {
		l.bytes -= len((*at).Data)
	}
	*at = nil
	if entry != nil && len(entry.Data) <= longestCached {
		*at = entry
		l.bytes += len(entry.Data)
	}
}

// DeleteRange implements raft.LogStore. An entry is not to be had any more when it
// begins, whatever becomes of it.
func (l *logs) DeleteRange(from, to uint64) error {
	l.mu.Lock()
	for _, entry := range l.latest {
		if entry != nil && entry.Index >= from && entry.Index <= to {
			l.put(entry.Index, nil)
		}
	}
	l.mu.Unlock()
	return l.disk.DeleteRange(from, to)
}
