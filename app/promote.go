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

// promoteInterval is how often the leader looks how far those have come who are
// to be voters.
const promoteInterval = 50 * time.Millisecond

// Add implements ports.Cluster.
func (c *Cluster) Add(ctx context.Context, instance domain.Instance, force bool) error {
	if force {
		return c.Membership.Add(ctx, instance)
	}
	roster, err := c.Membership.Roster(ctx)
	if err != nil {
		return err
	}
	if steps, err := roster.Join(instance); err != nil || len(steps) == 0 {
		return err // what the membership refuses, nobody has to be asked about
	}
	known, isMember := roster.Find(instance.ID)
	if !isMember || known.RaftAddress != instance.RaftAddress || instance.Suffrage == domain.Voter {
		if err := c.examine(ctx, instance); err != nil {
			return err
		}
	}
	if instance.Suffrage == domain.Voter && (!isMember || known.Suffrage != domain.Voter) {
		return c.addStaged(ctx, instance)
	}
	// Who is a nonvoter by somebody's wish is not promoted by an earlier one.
	if err := c.Membership.Add(ctx, instance); err != nil {
		return err
	}
	if instance.Suffrage == domain.Nonvoter && slices.Contains(c.promotions(), instance.ID) {
		return c.Promotions.Settle(ctx, instance.ID)
	}
	return nil
}

// examine asks whoever answers at the address of instance whether it is who it is
// to be.
func (c *Cluster) examine(ctx context.Context, instance domain.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, c.AskTimeout)
	defer cancel()
	identity, err := c.Peers.Identify(ctx, instance.RaftAddress)
	own := c.Identity().ClusterID
	switch {
	case err != nil:
		return fmt.Errorf("%w: nobody answers for %q at %s: %v", domain.ErrUnreachable, instance.ID, instance.RaftAddress, err)
	case identity.RaftID != instance.ID:
		return fmt.Errorf("%w: at %s answers instance %q, not %q", domain.ErrIDMismatch, instance.RaftAddress, identity.RaftID, instance.ID)
	case identity.ClusterID != "" && identity.ClusterID != own:
		return fmt.Errorf("%w: instance %q at %s belongs to cluster %s, this one is %s",
			domain.ErrOtherCluster, instance.ID, instance.RaftAddress, identity.ClusterID, own)
	}
	return nil
}

// addStaged makes instance a nonvoter, and a voter once it has caught up: a voter
// that lags counts in the majority, and holds up every write, before it can help
// with one.
func (c *Cluster) addStaged(ctx context.Context, instance domain.Instance) error {
	nonvoter := instance
	nonvoter.Suffrage = domain.Nonvoter
	if err := c.Membership.Add(ctx, nonvoter); err != nil {
		return err
	}
	if err := c.Promotions.Want(ctx, instance.ID); err != nil {
		return err
	}
	for {
		state, later := c.Local.State()
		now, isMember := state.Roster.Find(instance.ID)
		switch {
		case state.Closed || !state.Leading:
			return fmt.Errorf("%w: %q is a nonvoter, which the next leader makes a voter", ports.ErrOutcomeUnknown, instance.ID)
		case isMember && now.Suffrage == domain.Voter:
			return nil
		}
		select {
		case <-later:
		case <-ctx.Done():
			return fmt.Errorf("%w: %q is a nonvoter until it has caught up: %w", ports.ErrOutcomeUnknown, instance.ID, ctx.Err())
		}
	}
}

// promote makes voters of those who have caught up, as long as this instance
// leads and somebody wants it.
func (c *Cluster) promote(ctx context.Context) {
	var index uint64 // which the leader had to have before it last looked
	for ctx.Err() == nil {
		state, later := c.Local.State()
		if !state.Leading || len(state.Promotions) == 0 {
			index = 0
			select {
			case <-later:
			case <-ctx.Done():
			}
			continue
		}
		for _, id := range state.Promotions {
			if err := c.advance(ctx, state, id, index); err != nil && !errors.Is(err, ports.ErrNotLeader) && ctx.Err() == nil {
				c.Logger.Debug("an instance is not a voter yet", "id", id, "reason", err)
			}
		}
		index = c.reached(ctx)
		select {
		case <-time.After(promoteInterval):
		case <-ctx.Done():
		}
	}
}

// reached is how far whoever has caught up is, when it is asked after that; 0 when
// that can't be known.
func (c *Cluster) reached(ctx context.Context) uint64 {
	ctx, cancel := context.WithTimeout(ctx, c.AskTimeout)
	defer cancel()
	index, err := c.Progress.ReadIndex(ctx)
	if err != nil {
		return 0
	}
	return index
}

// advance does with id what is next: nothing, while it lags behind index.
func (c *Cluster) advance(ctx context.Context, state ports.LocalState, id string, index uint64) error {
	instance, isMember := state.Roster.Find(id)
	if !isMember || instance.Suffrage == domain.Voter {
		return c.Promotions.Settle(ctx, id)
	}
	if index == 0 {
		return nil
	}
	identity, err := c.identify(ctx, id, instance.RaftAddress)
	switch {
	case err != nil:
		return err
	case identity.ClusterID == "" || identity.Applied < index:
		return nil
	}
	instance.Suffrage = domain.Voter
	if err := c.Membership.Add(ctx, instance); err != nil {
		return err
	}
	c.Logger.Info("an instance has caught up and is a voter now", "id", id)
	return c.Promotions.Settle(ctx, id)
}
