package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// An instance that is new belongs to no cluster when it is asked, and goes to the
// first one whose leader reaches it as a member. Where two add it, one of them is
// late: its addition is taken back, by the request that made it.

// staging is a request that waits for an instance to be a voter.
type staging struct {
	wanted domain.Instance
	forced bool
	// unclaimed: it was added by this request, and belonged to no cluster before.
	unclaimed bool
}

// looks gives when to ask whose the instance is; never, where that is known.
func (s staging) looks() (at <-chan time.Time, stop func()) {
	if !s.unclaimed {
		return nil, func() {}
	}
	ticker := time.NewTicker(promoteInterval)
	return ticker.C, ticker.Stop
}

// claimed says whether an instance belongs to this cluster by now. The error is that
// it belongs to another one.
func (c *Cluster) claimed(ctx context.Context, wanted domain.Instance) (bool, error) {
	identity, err := c.identify(ctx, wanted.ID, wanted.RaftAddress)
	if errors.Is(err, domain.ErrOtherCluster) {
		return false, fmt.Errorf("%w: it went there while it was added here", err)
	}
	return err == nil && identity.ClusterID != "", nil // another error says nothing of that
}

// takeBack gives why, and undoes the addition of wanted because of that.
func (c *Cluster) takeBack(ctx context.Context, wanted domain.Instance, why error) error {
	if err := c.withdraw(ctx, wanted); err != nil {
		return fmt.Errorf("%w: it is a nonvoter here, that could not be removed: %v", why, err)
	}
	return why
}

func (c *Cluster) withdraw(ctx context.Context, wanted domain.Instance) error {
	roster, release, err := c.changing(ctx)
	if err != nil {
		return err
	}
	defer release()
	now, isMember := roster.Find(wanted.ID)
	if !isMember || now.Suffrage != domain.Nonvoter || now.RaftAddress != wanted.RaftAddress {
		return nil // somebody else has decided about it
	}
	return c.expel(ctx, wanted.ID)
}
