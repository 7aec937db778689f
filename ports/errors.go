package ports

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Why a request could not be carried out. All but ErrOutcomeUnknown say that nothing
// happened, so it is safe to ask again, here or at another instance.
// Refusals by rule are the errors of package domain.
var (
	// ErrNotLeader: another instance leads, or may lead. Ask that one.
	ErrNotLeader = errors.New("this instance is not the leader")
	// ErrNoLeader: no leader is known, or it can't be asked.
	ErrNoLeader = errors.New("no leader is known")
	// ErrNotCaughtUp: this instance has not yet applied all that was committed
	// before it started, or before a read began.
	ErrNotCaughtUp = errors.New("this instance has not caught up with the leader")
	// ErrTooStale: this instance has not heard from a leader as recently as Read.MaxStale
	// asks for.
	ErrTooStale = errors.New("this instance has not heard from a leader recently enough")
	// ErrBehind: this instance has not reached Read.AtLeast within Read.Wait. It comes as
	// *BehindError.
	ErrBehind = errors.New("the revision has not been reached in time")
	// ErrCutOff: this instance has lost contact with the leader.
	ErrCutOff = errors.New("this instance has not heard from a leader for longer than the election timeout")
	// ErrBusy: this instance's queue of writes is full.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrUpgrading: the build of some instance of the cluster can't read this kind of
	// write yet.
	ErrUpgrading = errors.New("not all instances of the cluster can read this kind of change yet: upgrade those that can't, or remove them")
	// ErrRestoring: this instance restores one backup at a time.
	ErrRestoring = errors.New("another backup is being restored")
	// ErrClosed: this instance is shutting down.
	ErrClosed = errors.New("this instance is shutting down")
	// ErrNoSuccessor: no voter took over leadership, so this instance kept it.
	ErrNoSuccessor = errors.New("no voter could take over leadership")
	// ErrNoMajorityLeft: a voter can't be removed or demoted, because too few of the other
	// voters are reachable and up to date to commit anything without it.
	ErrNoMajorityLeft = errors.New("there would be no majority without it")
	// ErrOutcomeUnknown: the write was sent to the log. It may have taken effect, may
	// take effect later, or never.
	ErrOutcomeUnknown = errors.New("the outcome of the write is not known: it may have taken effect, or may yet")
)

// BehindError is ErrBehind with the revision that this instance is at.
type BehindError struct{ Revision domain.Revision }

func (b *BehindError) Error() string {
	return fmt.Sprintf("%v: this instance is at %d", ErrBehind, b.Revision)
}

func (b *BehindError) Unwrap() error { return ErrBehind }
