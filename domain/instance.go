package domain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Suffrage says whether an instance counts in elections and commits.
type Suffrage string

// A voter counts; a nonvoter only receives the log.
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

// NewInstance makes an instance out of an operator's words, or says everything
// that is wrong with them (InvalidError, joined). A nil suffrage means Voter.
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

// CheckAdvertisedAddress says whether address is one that others can dial:
// CheckAddress, and no wildcard.
func CheckAdvertisedAddress(field, address string) error {
	if err := CheckAddress(field, address); err != nil {
		return err
	}
	if isWildcard(address) {
		return invalid(field, "must name a host that others can reach, not every interface: %q", address)
	}
	return nil
}

// Roster is the membership of the raft cluster: its instances in ascending
// order of their ids. It never changes; a change of membership makes another.
type Roster struct {
	instances []Instance
}

// NewRoster gives the roster of these instances.
func NewRoster(instances ...Instance) Roster {
	sorted := slices.Clone(instances)
	slices.SortFunc(sorted, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return Roster{instances: sorted}
}

// Instances gives the members in ascending order of their ids.
func (r Roster) Instances() []Instance { return slices.Clone(r.instances) }

// IDs gives the ids of the members in ascending order.
func (r Roster) IDs() []string {
	ids := make([]string, len(r.instances))
	for i, instance := range r.instances {
		ids[i] = instance.ID
	}
	return ids
}

// Find gives the instance named id; false when it is no member.
func (r Roster) Find(id string) (Instance, bool) {
	i := slices.IndexFunc(r.instances, func(i Instance) bool { return i.ID == id })
	if i < 0 {
		return Instance{}, false
	}
	return r.instances[i], true
}

// Voters is how many instances count in elections.
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

// The ways to change a membership, each safe to commit by itself.
const (
	SetVoter    StepKind = iota // add as voter, or move and promote
	SetNonvoter                 // add as nonvoter, or move and leave the suffrage
	Demote                      // make a voter a nonvoter
)

// Step is one change of the membership that raft can commit.
type Step struct {
	Kind     StepKind
	Instance Instance
}

// MaxInstances is how many instances a raft cluster may have. All of them fit into one event of a
// stream, with the longest names there are.
const MaxInstances = 64

// Join says which steps make the roster hold wanted as it is, none when it does
// already. Without the last voter nothing could ever be committed again, so it
// is not demoted (ErrLastVoter); an address has one owner (ErrAddressInUse); and there are
// MaxInstances at most (ErrClusterFull).
func (r Roster) Join(wanted Instance) ([]Step, error) {
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
		// As long as it counts somebody has to answer for it, and nobody may be there.
		return []Step{{Demote, wanted}, {SetNonvoter, wanted}}, nil
	}
	return []Step{{Demote, wanted}}, nil
}

// Leave says whether the instance named id may be removed: ErrNoSuchInstance,
// ErrLastVoter or nil.
func (r Roster) Leave(id string) error {
	known, isMember := r.Find(id)
	switch {
	case !isMember:
		return fmt.Errorf("%w: %q", ErrNoSuchInstance, id)
	case known.Suffrage == Voter && r.Voters() == 1:
		return fmt.Errorf("%w: %q can't be removed", ErrLastVoter, id)
	}
	return nil
}

// Succeed says whether the instance named id may be given leadership:
// ErrNoSuchInstance, ErrNotVoter or nil.
func (r Roster) Succeed(id string) error {
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
