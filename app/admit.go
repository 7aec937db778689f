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

// forcedPatience is how long who forces an addition waits for the instance to be
// a voter: it need not even run.
const forcedPatience = 2 * time.Second

// errOutdated: what the membership has of an instance was changed since that was
// examined. Nothing happened.
var errOutdated = errors.New("another request has changed this instance meanwhile")

// examined is what the addition of an instance is founded on.
type examined struct {
	known  domain.Instance // as the membership had it; zero: it was no member
	forced bool            // nobody was asked, so whatever it had does not matter
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

// add is Add in one try.
func (c *Cluster) add(ctx context.Context, wanted domain.Instance, force bool) (domain.Instance, error) {
	roster, err := c.Membership.Roster(ctx)
	if err != nil {
		return domain.Instance{}, err
	}
	if _, err := roster.StepsFor(wanted); err != nil {
		return domain.Instance{}, err // what the membership refuses, nobody has to be asked about
	}
	if wanted.ID == c.Self.RaftID && wanted.Suffrage == domain.Nonvoter {
		if self, _ := roster.Find(wanted.ID); self.Suffrage == domain.Voter {
			return domain.Instance{}, c.giveWay(ctx)
		}
	}
	known, isMember := roster.Find(wanted.ID)
	seen := examined{known: known, forced: force}
	if !force && mustBeAsked(known, isMember, wanted) {
		identity, err := c.examine(ctx, wanted)
		if err != nil {
			return domain.Instance{}, err
		}
		if isMember && known.RaftAddress != wanted.RaftAddress {
			if err := c.mayMove(ctx, known, identity); err != nil {
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
		return c.awaitVoter(ctx, staging{wanted: wanted, forced: force, unclaimed: seen.unclaimed})
	case seen.unclaimed:
		if _, err := c.claimed(ctx, wanted); err != nil {
			return domain.Instance{}, c.takeBack(ctx, wanted, err)
		}
	}
	return wanted, nil
}

// mustBeAsked: who is to answer at an address, or to count in the majority. Who
// is to count no longer need not live to be told.
func mustBeAsked(known domain.Instance, isMember bool, wanted domain.Instance) bool {
	return !isMember || known.RaftAddress != wanted.RaftAddress ||
		wanted.Suffrage == domain.Voter && known.Suffrage != domain.Voter
}

// examine asks whoever answers at the address of wanted whether it is who it is
// to be, and reads what the log holds, and gives what it says.
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

// mayMove refuses to give the place of a member that answers to another process that bears its
// id: that one would forget what the member has promised, and the member, which
// nobody sends anything any more, would not learn why. One process may be reached at both
// addresses.
func (c *Cluster) mayMove(ctx context.Context, known domain.Instance, newcomer ports.Identity) error {
	holder := c.Identity()
	if known.ID != c.Self.RaftID {
		var err error
		if holder, err = c.hearFrom(ctx, known.ID, known.RaftAddress); err != nil {
			return nil // it is gone, or that is not it
		}
	}
	if holder.Process == "" || newcomer.Process == "" || holder.Process == newcomer.Process {
		return nil
	}
	return fmt.Errorf("%w: %q is a member at %s, where another process than this one answers: stop that one, or use another id",
		domain.ErrIDInUse, known.ID, known.RaftAddress)
}

// changing gives the right to change the membership, and who is to be promoted:
// those two are one decision. Its holder calls release. It also gives the membership
// as it is: others may have changed it since the holder last looked.
func (c *Cluster) changing(ctx context.Context) (roster domain.Roster, release func(), err error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return roster, nil, ctx.Err()
	}
	release = func() { <-c.turn }
	if roster, err = c.Membership.Roster(ctx); err != nil {
		release()
		return roster, nil, err
	}
	return roster, release, nil
}

// admit makes wanted a member; staged, where it is a nonvoter that is to be a
// voter: one that lags would count in the majority, and hold up every write,
// before it can help with one. A voter that came back blank is one of those: what
// it acknowledged before must not count any more.
//
// It takes a while to examine an instance, and who was let in meanwhile under its id is
// not to lose its place to it unasked: that is errOutdated.
func (c *Cluster) admit(ctx context.Context, wanted domain.Instance, seen examined) (staged bool, err error) {
	roster, release, err := c.changing(ctx)
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
		// An earlier wish must not promote it; also not one that is still on
		// its way through the log, so it is not asked whether there is one.
		wished := c.wanted(wanted.ID)
		if err := c.Promotions.RemovePromotion(ctx, wanted.ID); err != nil {
			return false, err
		}
		return false, halfDone(wished, c.Membership.Add(ctx, wanted))
	case isMember && known.Suffrage == domain.Voter && !seen.blank:
		return false, c.Membership.Add(ctx, wanted)
	}
	return true, c.stage(ctx, wanted, isMember)
}

// stage needs the right to change the membership. It makes a nonvoter of wanted that
// is to be a voter. The wish comes first: whoever leads after that, and knows the
// nonvoter, knows what is to become of it. It is said again where it is known already: the
// end of an earlier one may still be on its way through the log.
func (c *Cluster) stage(ctx context.Context, wanted domain.Instance, isMember bool) error {
	if err := c.Promotions.AddPromotion(ctx, wanted.ID); err != nil {
		return err
	}
	wanted.Suffrage = domain.Nonvoter
	return halfDone(isMember, c.Membership.Add(ctx, wanted))
}

// halfDone is err, which may claim that nothing happened, of the second of two
// changes, where the first one says something by itself.
func halfDone(half bool, err error) error {
	if err == nil || !half {
		return err
	}
	return fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, err)
}

func (c *Cluster) wanted(id string) bool {
	state, _ := c.Local.State()
	return slices.Contains(state.Promotions, id)
}

// awaitVoter waits until an instance is a voter, which promote makes it. Who forced
// the addition does not wait for long, and takes what it is by then.
func (c *Cluster) awaitVoter(ctx context.Context, s staging) (domain.Instance, error) {
	wanted, patience := s.wanted, ctx
	if s.forced {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, forcedPatience)
		defer cancel()
	}
	look, stop := s.looks()
	defer stop()
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
				return domain.Instance{}, c.takeBack(ctx, wanted, err)
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
		return domain.Instance{}, c.giveWay(ctx)
	}
	roster, release, err := c.changing(ctx)
	if err != nil {
		return domain.Instance{}, err
	}
	defer release()
	removed, _ := roster.Find(id)
	if err := c.expel(ctx, id); err != nil {
		return domain.Instance{}, err
	}
	return removed, nil
}

// expel needs the right to change the membership.
func (c *Cluster) expel(ctx context.Context, id string) error {
	wished := c.wanted(id)
	if wished {
		// Before, because an error after the removal would claim that it was not made.
		if err := c.Promotions.RemovePromotion(ctx, id); err != nil {
			return err
		}
	}
	return halfDone(wished, c.Membership.Remove(ctx, id))
}

// giveWay is what a leader does that is to be no voter any more, and ErrNotLeader
// when it is done: its successor is to make the change. If it did so itself, the
// others would be without a leader until they notice. Worse, one that lost
// leadership in the middle would have the end of its vote in its log, for which
// raft does not let it stand for election, and yet be ahead of the others, for
// which it would not vote for any of them.
//
// Where its successor would refuse that, it stays.
func (c *Cluster) giveWay(ctx context.Context) error {
	if err := c.Membership.CanSpare(ctx, c.Self.RaftID); err != nil {
		return err
	}
	if _, err := c.HandOver(ctx, ""); err != nil {
		return err
	}
	return ports.ErrNotLeader
}
