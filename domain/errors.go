package domain

import (
	"errors"
	"fmt"
)

// Why a command or a membership change is refused. A refusal is final: nothing
// happened, and the same request gets the same answer until the state changes.
var (
	ErrInvalid         = errors.New("invalid")
	ErrAddressInUse    = errors.New("address in use")
	ErrConditionFailed = errors.New("precondition failed")
	ErrNoSuchNode      = errors.New("no such node")
	ErrNoTimeToLive    = errors.New("no time to live")
	ErrRegistryFull    = errors.New("registry full")
	ErrNoSuchInstance  = errors.New("no such instance")
	ErrLastVoter       = errors.New("last voter")
	ErrNotVoter        = errors.New("not a voter")
)

// Why an instance is not admitted to the raft cluster. Nothing happened, or what happened
// was undone, unless the error says that it could not be. These depend on what answers at
// an address when the leader asks, so the same request may succeed later.
var (
	ErrUnreachable  = errors.New("instance unreachable")
	ErrIDMismatch   = errors.New("id mismatch")
	ErrOtherCluster = errors.New("other cluster")
	ErrTooOld       = errors.New("instance too old")
	ErrIDInUse      = errors.New("id in use")
)

// ErrClusterFull: the raft cluster has MaxInstances members.
var ErrClusterFull = errors.New("cluster full")

// InvalidError says which field of a value breaks which rule. It matches ErrInvalid.
type InvalidError struct {
	Field  string
	Reason string
}

func (e *InvalidError) Error() string { return fmt.Sprintf("%s %s", e.Field, e.Reason) }

// Is reports whether target is ErrInvalid.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// parts returns the errors that errors.Join made err of, recursively.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	var all []error
	for _, part := range joined.Unwrap() {
		all = append(all, parts(part)...)
	}
	return all
}

// Refusal is the registry's "no" to a command: the reason, and what the registry held
// when it refused.
type Refusal struct {
	Err error
	// Revision is that of the registry.
	Revision Revision
	// Current is the node that the command names; nil if there is none.
	Current *CacheNode
}

// NoSuchNode refuses what was asked of a node that the registry did not have at revision.
func NoSuchNode(id string, revision Revision) *Refusal {
	return &Refusal{Err: fmt.Errorf("%w: %q", ErrNoSuchNode, id), Revision: revision}
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }
