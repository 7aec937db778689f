package ports

import (
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Source says which instance answers a read, and how fresh the answer is.
type Source uint8

const (
	// Leader: the leader alone, linearizably; elsewhere it is ErrNotLeader.
	Leader Source = iota
	// Here: this instance, linearizably. One that does not lead asks the leader
	// how far it has to be, and waits until it is.
	Here
	// Stale: this instance, with what it has. It asks nobody, and may be behind.
	Stale
)

// Read is how a read is to be answered. The zero value is a linearizable read
// by the leader.
type Read struct {
	Source Source
	// MaxStale, with Stale, is how long ago this instance may have heard from a
	// leader (ErrTooStale), unless it is sure to lead; nil: however long.
	MaxStale *time.Duration
	// AtLeast waits for this revision, for Wait at most (ErrBehind).
	AtLeast domain.Revision
	// Past waits for a revision over this one, for Wait at most; then the answer
	// is what there is. Nil waits for none.
	Past *domain.Revision
	Wait time.Duration
}
