package ports

import (
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// What can keep a question from being answered. All but ErrOutcomeUnknown say
// that nothing happened, so that asking again, or elsewhere, is safe.
// Refusals by rule are the errors of package domain.
var (
	// ErrNotLeader: another instance leads, or may lead; ask there.
	ErrNotLeader = errors.New("this instance is not the leader")
	// ErrNoLeader: nobody is known to lead, or the leader can't be asked.
	ErrNoLeader = errors.New("no leader is known")
	// ErrNotCaughtUp: this instance has not yet applied all that was committed
	// before it started, or before a read began.
	ErrNotCaughtUp = errors.New("this instance has not caught up with the leader")
	// ErrTooStale: it has not heard from a leader as recently as was asked for.
	ErrTooStale = errors.New("this instance has not heard from a leader recently enough")
	// ErrBehind: the revision that was waited for has not been reached in time. It comes
	// as *Behind.
	ErrBehind = errors.New("the revision has not been reached in time")
	// ErrCutOff: this instance has lost touch with the leader.
	ErrCutOff = errors.New("this instance has not heard from a leader for longer than the election timeout")
	// ErrBusy: more is waiting to be written than this instance takes on.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrUpgrading: an instance of the cluster is of a build that can't read this
	// kind of write yet.
	ErrUpgrading = errors.New("not all instances of the cluster can read this kind of change yet: upgrade those that can't, or remove them")
	// ErrRestoring: one backup is restored at a time.
	ErrRestoring = errors.New("another backup is being restored")
	// ErrClosed: this instance is shutting down.
	ErrClosed = errors.New("this instance is shutting down")
	// ErrNoSuccessor: leadership could not be handed over; this instance kept it.
	ErrNoSuccessor = errors.New("no voter could take over leadership")
	// ErrNoMajorityLeft: a voter can't go, because too few of the others answer, or have
	// what was written, to commit that, or anything after it. Nothing was changed.
	ErrNoMajorityLeft = errors.New("there would be no majority without it")
	// ErrOutcomeUnknown: the write was sent on its way, and whether it takes
	// effect, now or later, is not known.
	ErrOutcomeUnknown = errors.New("the outcome of the write is not known: it may have taken effect, or may yet")
)

// BehindError is ErrBehind with the revision that was read instead.
type BehindError struct{ Revision domain.Revision }

func (b *BehindError) Error() string {
	return fmt.Sprintf("%v: this instance is at %d", ErrBehind, b.Revision)
}

func (b *BehindError) Unwrap() error { return ErrBehind }
