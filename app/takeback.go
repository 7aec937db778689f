package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A new instance belongs to no cluster. It joins the first cluster whose leader reaches it
// as a member. If two clusters add it at the same time, the one that comes second undoes
// its addition, in the request that made it.

// claimed reports whether the instance belongs to this cluster by now. The error is
// ErrOtherCluster.
func (c *Cluster) claimed(ctx context.Context, wanted domain.Instance) (bool, error) {
	identity, err := c.identify(ctx, wanted.ID, wanted.RaftAddress)
	if errors.Is(err, domain.ErrOtherCluster) {
		return false, fmt.Errorf("%w: it went there while it was added here", err)
	}
	return err == nil && identity.ClusterID != "", nil // any other error says nothing about that
}

// undoAdd undoes the addition of wanted because of why, and returns why.
func (c *Cluster) undoAdd(ctx context.Context, wanted domain.Instance, why error) error {
	if err := c.removeNonvoter(ctx, wanted); err != nil {
		return fmt.Errorf("%w: it is a nonvoter here, that could not be removed: %v", why, err)
	}
	return why
}

func (c *Cluster) removeNonvoter(ctx context.Context, wanted domain.Instance) error {
	roster, release, err := c.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer release()
	now, isMember := roster.Find(wanted.ID)
	if !isMember || now.Suffrage != domain.Nonvoter || now.RaftAddress != wanted.RaftAddress {
		return nil // another request has changed it since
	}
	return c.removeMember(ctx, wanted.ID)
}
