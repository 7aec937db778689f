package ports

import "errors"

// What can keep a question from being answered. All but ErrOutcomeUnknown say
// that nothing happened, so that asking again, or elsewhere, is safe.
// Refusals by rule are the errors of package domain.
var (
	// ErrNotLeader: another instance leads, or may lead; ask there.
	ErrNotLeader = errors.New("this instance is not the leader")
	// ErrNoLeader: nobody is known to lead, or the leader can't be asked.
	ErrNoLeader = errors.New("no leader is known")
	// ErrBusy: more is waiting to be written than this instance takes on.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrClosed: this instance is shutting down.
	ErrClosed = errors.New("this instance is shutting down")
	// ErrNoSuccessor: leadership could not be handed over; this instance kept it.
	ErrNoSuccessor = errors.New("no voter could take over leadership")
	// ErrOutcomeUnknown: the write was sent on its way, and whether it takes
	// effect, now or later, is not known.
	ErrOutcomeUnknown = errors.New("the outcome of the write is not known: it may have taken effect, or may yet")
)
