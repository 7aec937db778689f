package disk

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Config is what a Store needs of the instance that it belongs to. Every field is required
// unless its comment says otherwise. The functions are called from many goroutines.
type Config struct {
	// HangAfter is how long an operation may take before it counts as hanging.
	HangAfter time.Duration
	// MaxBatch is the greatest number of entries in one append to the log store.
	MaxBatch int
	// OwnAddress is the candidate that raft stores when this instance votes for itself.
	OwnAddress []byte
	// Logger logs when trouble with the disk begins and ends.
	Logger *slog.Logger

	// CheckPresent returns an error if the directory is gone, so that writes would be lost.
	CheckPresent func() error
	// Verify returns an error if an entry that was read is not as it was written.
	Verify func(*raft.Log) error

	// Leads reports whether this instance leads.
	Leads func() bool
	// NeedsOthers reports whether an entry needs the acknowledgement of another instance to
	// be committed.
	NeedsOthers func() bool
	// Committed returns raft's commit index.
	Committed func() uint64

	// Appended is called with entries once they are stored.
	Appended func([]*raft.Log)
	// Stored is called with how long each append took. It may be nil.
	Stored func(time.Duration)
	// Changed is called when trouble with the disk begins, changes or ends. It must not
	// block, and may call no method of the Store but Fault.
	Changed func()
	// Fatal is called when this instance can't go on, with the reason. It must not return
	// before the instance is being closed.
	Fatal func(error)
	// Raising is locked while raft raises the term. It may be nil.
	Raising sync.Locker
}
