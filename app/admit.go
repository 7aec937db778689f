package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// forcedPatience is how long a forced addition waits for the instance to be a voter: the
// instance need not even run.
const forcedPatience = 2 * time.Second

// errOutdated: another request changed the membership of the instance after it was
// examined. Nothing happened.
var errOutdated = errors.New("another request has changed this instance meanwhile")

// examination is what is known of an instance when it is added.
type examination struct {
	known  domain.Instance // its membership; zero: it was no member
	forced bool            // the instance was not asked, and known does not matter
	blank  bool            // see isBlank
	// unclaimed: it was no member, and belonged to no cluster.
	unclaimed bool
}

// Add implements ports.Cluster.
func (c *Cluster) Add(ctx context.Context, wanted domain.Instance, force bool) (domain.Instance, error) {
	for {
		added, err := c.add(ctx, wanted, force)
		if !errors.Is(err, errOutdated) {
			return added, err
		}
	}
}

// add is one attempt of Add. It returns errOutdated if the membership of wanted changed
// meanwhile.
func (c *Cluster) add(ctx context.Context, wanted domain.Instance, force bool) (domain.Instance, error) {
	roster, err := c.Membership.Roster(ctx)
	if err != nil {
		return domain.Instance{}, err
	}
	if _, err := roster.StepsFor(wanted); err != nil {
		return domain.Instance{}, err // refused, whatever the instance would answer
	}
	if wanted.ID == c.Self.RaftID && wanted.Suffrage == domain.Nonvoter {
		if self, _ := roster.Find(wanted.ID); self.Suffrage == domain.Voter {
			return domain.Instance{}, c.stepDown(ctx)
		}
	}
	known, isMember := roster.Find(wanted.ID)
	seen := examination{known: known, forced: force}
	if !force && needsExamination(known, isMember, wanted) {
		identity, err := c.examine(ctx, wanted)
		if err != nil {
			return domain.Instance{}, err
		}
		if isMember && known.RaftAddress != wanted.RaftAddress {
			if err := c.checkMove(ctx, known, identity); err != nil {
				return domain.Instance{}, err
			}
		}
		seen.blank, seen.unclaimed = isBlank(identity), !isMember && identity.ClusterID == ""
	}
	staged, err := c.admit(ctx, wanted, seen)
	switch {
	case err != nil:
		return domain.Instance{}, err
	case staged:
		return c.awaitVoter(ctx, wanted, seen)
	case seen.unclaimed:
		if _, err := c.claimed(ctx, wanted); err != nil {
			return domain.Instance{}, c.undoAdd(ctx, wanted, err)
		}
	}
	return wanted, nil
}

// needsExamination reports whether the instance must answer before it is added: it gets an
// address, or becomes a voter. A voter that is demoted need not run.
func needsExamination(known domain.Instance, isMember bool, wanted domain.Instance) bool {
	return !isMember || known.RaftAddress != wanted.RaftAddress ||
		wanted.Suffrage == domain.Voter && known.Suffrage != domain.Voter
}

// examine asks the instance at the address of wanted who it is, and checks that it is
// wanted and can read the log.
func (c *Cluster) examine(ctx context.Context, wanted domain.Instance) (ports.Identity, error) {
	identity, err := c.identify(ctx, wanted.ID, wanted.RaftAddress)
	if err != nil {
		return ports.Identity{}, err
	}
	if max(1, identity.Format) < c.Formats.Written() {
		return ports.Identity{}, fmt.Errorf("%w: the log may hold what instance %q, of version %s, can't read: it reads format %d, and there may be format %d",
			domain.ErrTooOld, wanted.ID, identity.Version, max(1, identity.Format), c.Formats.Written())
	}
	return identity, nil
}

// checkMove returns ErrIDInUse if a member still answers at its address, and newcomer, at
// its new address, is another process with the same id. The newcomer would not know what
// the member has promised (its vote, its log), and the member would no longer be sent
// anything, and not learn why. One process may be reachable at both addresses.
func (c *Cluster) checkMove(ctx context.Context, known domain.Instance, newcomer ports.Identity) error {
	holder := c.Identity()
	if known.ID != c.Self.RaftID {
		var err error
		if holder, err = c.identifyMember(ctx, known.ID, known.RaftAddress); err != nil {
			return nil // the member is gone, or another instance answers at its address
		}
	}
	if holder.Process == "" || newcomer.Process == "" || holder.Process == newcomer.Process {
		return nil
	}
	return fmt.Errorf("%w: %q is a member at %s, where another process than this one answers: stop that one, or use another id",
		domain.ErrIDInUse, known.ID, known.RaftAddress)
}

// lockMembership takes the lock under which this instance changes the membership and the
// promotions, which must change together. The caller must call release. It also returns
// the current membership: others may have changed it before the lock was taken.
func (c *Cluster) lockMembership(ctx context.Context) (roster domain.Roster, release func(), err error) {
	select {
	case c.lock <- struct{}{}:
	case <-ctx.Done():
		return roster, nil, ctx.Err()
	}
	release = func() { <-c.lock }
	if roster, err = c.Membership.Roster(ctx); err != nil {
		release()
		return roster, nil, err
	}
	return roster, release, nil
}

// admit makes wanted a member. A new voter is staged: it is a nonvoter until it has caught
// up, because a voter that lags counts towards the majority, and holds up every write,
// before it can acknowledge one. So is a voter that came back blank: what it acknowledged
// before must not count any more.
//
// Examining an instance takes a while. If another request has changed the membership of
// that id meanwhile, admit returns errOutdated.
func (c *Cluster) admit(ctx context.Context, wanted domain.Instance, seen examination) (staged bool, err error) {
	roster, release, err := c.lockMembership(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	if _, err := roster.StepsFor(wanted); err != nil {
		return false, err
	}
	known, isMember := roster.Find(wanted.ID)
	if known != seen.known && !seen.forced {
		return false, errOutdated
	}
	switch {
	case wanted.Suffrage == domain.Nonvoter:
		// An earlier promotion must not make it a voter. Remove it even if none is
		// known: one may still be on its way through the log.
		wished := c.promotionWanted(wanted.ID)
		if err := c.Promotions.RemovePromotion(ctx, wanted.ID); err != nil {
			return false, err
		}
		return false, halfDone(wished, c.Membership.Add(ctx, wanted))
	case isMember && known.Suffrage == domain.Voter && !seen.blank:
		return false, c.Membership.Add(ctx, wanted)
	}
	return true, c.stage(ctx, wanted, isMember)
}

// stage makes wanted a nonvoter with a promotion. The caller holds the lock. The promotion
// comes first in the log, so that every leader that has the nonvoter has the promotion. It
// is added even if there is one already: its removal may still be on its way through the
// log.
func (c *Cluster) stage(ctx context.Context, wanted domain.Instance, isMember bool) error {
	if err := c.Promotions.AddPromotion(ctx, wanted.ID); err != nil {
		return err
	}
	wanted.Suffrage = domain.Nonvoter
	return halfDone(isMember, c.Membership.Add(ctx, wanted))
}

// halfDone returns the error of the second of two changes. err may claim that nothing
// happened; if half is true, the first change had an effect by itself, so the outcome is
// unknown.
func halfDone(half bool, err error) error {
	if err == nil || !half {
		return err
	}
	return fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, err)
}

func (c *Cluster) promotionWanted(id string) bool {
	state, _ := c.Local.State()
	return slices.Contains(state.Promotions, id)
}

// awaitVoter waits until promote has made the instance a voter. If the addition was
// forced, it waits for forcedPatience, and then returns the nonvoter.
func (c *Cluster) awaitVoter(ctx context.Context, wanted domain.Instance, seen examination) (domain.Instance, error) {
	patience := ctx
	if seen.forced {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, forcedPatience)
		defer cancel()
	}
	var look <-chan time.Time // when to ask which cluster it belongs to; nil: that is known
	if seen.unclaimed {
		ticker := time.NewTicker(promoteInterval)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		state, later := c.Local.State()
		now, isMember := state.LastCommitted().Roster.Find(wanted.ID)
		switch {
		case state.Closed || !state.Leading:
			return domain.Instance{}, fmt.Errorf("%w: %q is a nonvoter, which the next leader makes a voter", ports.ErrOutcomeUnknown, wanted.ID)
		case isMember && now.RaftAddress != wanted.RaftAddress:
			return domain.Instance{}, fmt.Errorf("%w: meanwhile another request has moved %q to %s", ports.ErrOutcomeUnknown, wanted.ID, now.RaftAddress)
		case isMember && now.Suffrage == domain.Voter:
			return now, nil
		case !slices.Contains(state.Promotions, wanted.ID):
			return domain.Instance{}, fmt.Errorf("%w: meanwhile another request wants %q to be no voter", ports.ErrOutcomeUnknown, wanted.ID)
		}
		select {
		case <-later:
		case <-look:
			ours, err := c.claimed(ctx, wanted)
			if err != nil {
				return domain.Instance{}, c.undoAdd(ctx, wanted, err)
			}
			if ours {
				look = nil
			}
		case <-patience.Done():
			if ctx.Err() == nil && isMember {
				return now, nil
			}
			return domain.Instance{}, fmt.Errorf("%w: %q is a nonvoter until it has caught up: %w", ports.ErrOutcomeUnknown, wanted.ID, patience.Err())
		}
	}
}

// Remove implements ports.Cluster.
func (c *Cluster) Remove(ctx context.Context, id string) (domain.Instance, error) {
	roster, err := c.Membership.Roster(ctx)
	if err != nil {
		return domain.Instance{}, err
	}
	if err := roster.CheckRemoval(id); err != nil {
		return domain.Instance{}, err
	}
	if id == c.Self.RaftID {
		return domain.Instance{}, c.stepDown(ctx)
	}
	roster, release, err := c.lockMembership(ctx)
	if err != nil {
		return domain.Instance{}, err
	}
	defer release()
	removed, _ := roster.Find(id)
	if err := c.removeMember(ctx, id); err != nil {
		return domain.Instance{}, err
	}
	return removed, nil
}

// removeMember removes a member and its promotion. The caller holds the lock.
func (c *Cluster) removeMember(ctx context.Context, id string) error {
	wished := c.promotionWanted(id)
	if wished {
		// The promotion goes first: an error after the removal of the member would claim
		// that the member was not removed.
		if err := c.Promotions.RemovePromotion(ctx, id); err != nil {
			return err
		}
	}
	return halfDone(wished, c.Membership.Remove(ctx, id))
}

// stepDown hands leadership over when the leader itself is to be removed or demoted, and
// returns ErrNotLeader once that is done: the new leader is to make the change. If the
// leader made it itself, the others would have no leader until they notice. Worse, if it
// lost leadership halfway, the change in its log would keep it from standing for election,
// and being ahead of the others it would vote for none of them.
//
// It stays the leader if the new one would refuse the change.
func (c *Cluster) stepDown(ctx context.Context) error {
	if err := c.Membership.CanSpare(ctx, c.Self.RaftID); err != nil {
		return err
	}
	if _, err := c.HandOver(ctx, ""); err != nil {
		return err
	}
	return ports.ErrNotLeader
}
