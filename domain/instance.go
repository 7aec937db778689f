package domain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Suffrage says whether an instance counts towards the majority of raft.
type Suffrage string

// A voter counts in elections and commits; a nonvoter only receives the log.
const (
	Voter    Suffrage = "voter"
	Nonvoter Suffrage = "nonvoter"
)

// Instance is one nodesmetadata process as a member of the raft cluster.
type Instance struct {
	ID          string
	RaftAddress string
	Suffrage    Suffrage
}

// NewInstance makes an instance of what an operator asked for, or returns all its
// faults at once (InvalidError, joined). A nil suffrage means Voter.
func NewInstance(id, raftAddress string, suffrage *Suffrage) (Instance, error) {
	i := Instance{ID: id, RaftAddress: raftAddress, Suffrage: valueOr(suffrage, Voter)}
	faults := []error{CheckID("id", id), CheckAdvertisedAddress("address", raftAddress)}
	if i.Suffrage != Voter && i.Suffrage != Nonvoter {
		faults = append(faults, invalid("suffrage", "must be voter or nonvoter: %q", i.Suffrage))
	}
	if err := errors.Join(faults...); err != nil {
		return Instance{}, err
	}
	return i, nil
}

// CheckAdvertisedAddress reports an error (InvalidError about field) unless address is
// one that others can dial: it passes CheckAddress and is no wildcard.
func CheckAdvertisedAddress(field, address string) error {
	if err := CheckAddress(field, address); err != nil {
		return err
	}
	if isWildcard(address) {
		return invalid(field, "must name a host that others can reach, not every interface: %q", address)
	}
	return nil
}

// Roster is the membership of the raft cluster. It is immutable: a change of the
// membership makes another Roster.
type Roster struct {
	instances []Instance // in ascending order of their ids
}

// NewRoster returns the roster of these instances, which may be in any order.
func NewRoster(instances ...Instance) Roster {
	sorted := slices.Clone(instances)
	slices.SortFunc(sorted, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return Roster{instances: sorted}
}

// Instances returns the members in ascending order of their ids.
func (r Roster) Instances() []Instance { return slices.Clone(r.instances) }

// IDs returns the ids of the members in ascending order.
func (r Roster) IDs() []string {
	ids := make([]string, len(r.instances))
	for i, instance := range r.instances {
		ids[i] = instance.ID
	}
	return ids
}

// Find returns the instance named id; false if it is not a member.
func (r Roster) Find(id string) (Instance, bool) {
	i := slices.IndexFunc(r.instances, func(i Instance) bool { return i.ID == id })
	if i < 0 {
		return Instance{}, false
	}
	return r.instances[i], true
}

// Voters is the number of voters.
func (r Roster) Voters() int {
	voters := 0
	for _, i := range r.instances {
		if i.Suffrage == Voter {
			voters++
		}
	}
	return voters
}

// StepKind is the kind of a Step.
type StepKind uint8

// The kinds of steps. Each is safe to commit by itself.
const (
	SetVoter    StepKind = iota // add a voter, or give a member this address and make it a voter
	SetNonvoter                 // add a nonvoter, or give a member this address; its suffrage stays
	Demote                      // make a voter a nonvoter
)

// Step is one change of the membership that raft commits as one log entry.
type Step struct {
	Kind     StepKind
	Instance Instance
}

// MaxInstances is how many instances a raft cluster may have. All of them, even with the
// longest names, fit into one event of a stream.
const MaxInstances = 64

// StepsFor returns the steps after which the roster holds wanted exactly; none if it
// already does. It refuses an address that another member has (ErrAddressInUse), more
// than MaxInstances members (ErrClusterFull), and to demote the last voter
// (ErrLastVoter), without which nothing could ever be committed again.
func (r Roster) StepsFor(wanted Instance) ([]Step, error) {
	address := canonicalAddress(wanted.RaftAddress)
	for _, other := range r.instances {
		if other.ID != wanted.ID && canonicalAddress(other.RaftAddress) == address {
			return nil, fmt.Errorf("%w: %s is the raft address of instance %q", ErrAddressInUse, wanted.RaftAddress, other.ID)
		}
	}
	known, isMember := r.Find(wanted.ID)
	switch {
	case isMember && known == wanted:
		return nil, nil
	case !isMember && len(r.instances) >= MaxInstances:
		return nil, fmt.Errorf("%w: it has %d instances, which is as many as it can have", ErrClusterFull, len(r.instances))
	case wanted.Suffrage == Voter:
		return []Step{{SetVoter, wanted}}, nil
	case !isMember || known.Suffrage == Nonvoter:
		return []Step{{SetNonvoter, wanted}}, nil
	case r.Voters() == 1:
		return nil, fmt.Errorf("%w: %q can't be a nonvoter", ErrLastVoter, wanted.ID)
	case known.RaftAddress != wanted.RaftAddress:
		// Demote first: while it is a voter, its new address counts towards the
		// majority, and there may be nobody at that address to answer.
		return []Step{{Demote, wanted}, {SetNonvoter, wanted}}, nil
	}
	return []Step{{Demote, wanted}}, nil
}

// CheckRemoval returns nil if the instance named id may be removed, else
// ErrNoSuchInstance or ErrLastVoter.
func (r Roster) CheckRemoval(id string) error {
	known, isMember := r.Find(id)
	switch {
	case !isMember:
		return fmt.Errorf("%w: %q", ErrNoSuchInstance, id)
	case known.Suffrage == Voter && r.Voters() == 1:
		return fmt.Errorf("%w: %q can't be removed", ErrLastVoter, id)
	}
	return nil
}

// CheckSuccessor returns nil if leadership may be handed over to the instance named id,
// else ErrNoSuchInstance or ErrNotVoter.
func (r Roster) CheckSuccessor(id string) error {
	known, isMember := r.Find(id)
	switch {
	case !isMember:
		return fmt.Errorf("%w: %q", ErrNoSuchInstance, id)
	case known.Suffrage != Voter:
		return fmt.Errorf("%w: %q can't lead", ErrNotVoter, id)
	}
	return nil
}

// Equal reports whether both rosters hold the same instances.
func (r Roster) Equal(other Roster) bool { return slices.Equal(r.instances, other.instances) }
