package disk

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Config is what a Store needs of the instance that it belongs to. All of it is required
// unless it says otherwise. The functions are called from many goroutines.
type Config struct {
	// HangAfter is how long an operation may take before it counts as hanging.
	HangAfter time.Duration
	// MaxBatch is how many entries one append holds at most.
	MaxBatch int
	// OwnAddress is the candidate that raft stores when this instance votes for itself.
	OwnAddress []byte
	Logger     *slog.Logger

	// CheckPresent returns an error if the directory is gone, so that writes would be lost.
	CheckPresent func() error
	// Verify returns an error if an entry that was read is not as it was written.
	Verify func(*raft.Log) error

	// Leads reports whether this instance leads.
	Leads func() bool
	// NeedsOthers reports whether committing takes acknowledgements of others.
	NeedsOthers func() bool
	// Committed returns raft's commit index.
	Committed func() uint64

	// Appended is told of entries that were stored.
	Appended func([]*raft.Log)
	// Stored is told how long one append took; it may be nil.
	Stored func(time.Duration)
	// Changed is called when trouble begins, changes or ends. It must not block: of the
	// Store it may call Fault.
	Changed func()
	// Fatal is called with an error with which this instance can't go on; it must return
	// only when the instance is being closed.
	Fatal func(error)
	// Raising is held while the term is raised; it may be nil.
	Raising sync.Locker
}
