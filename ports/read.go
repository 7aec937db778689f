package ports

import (
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Source says which instance answers a read, and how fresh the answer is.
type Source uint8

const (
	// Leader: only the leader answers, linearizably. Others return ErrNotLeader.
	Leader Source = iota
	// Here: this instance answers, linearizably. If it does not lead, it asks the leader
	// for a read index, and waits until it has applied the log up to there.
	Here
	// Stale: this instance answers with what it has. It asks nobody, and may be behind.
	Stale
)

// Read says how a read is to be answered. The zero value is a linearizable read
// by the leader.
type Read struct {
	Source Source
	// MaxStale, with Stale, is how long ago this instance may have heard from the
	// leader, unless it surely leads; else the read fails with ErrTooStale. Nil: no limit.
	MaxStale *time.Duration
	// AtLeast makes the read wait for this revision, or fail with ErrBehind after Wait.
	AtLeast domain.Revision
	// Past, if not nil, makes the read wait for a later revision than this one. After
	// Wait it returns the revision that there is.
	Past *domain.Revision
	Wait time.Duration
}
