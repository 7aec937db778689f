package app

import (
	"context"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// readmitTimeout bounds one attempt to demote a voter in quarantine.
const readmitTimeout = 5 * time.Second

// isBlank reports whether an instance has no record of what it may have acknowledged.
func isBlank(identity ports.Identity) bool { return identity.ClusterID == "" || identity.Quarantined }

// noteBlankVoter passes a voter in quarantine on to readmit. If readmit is busy with
// another one, the next poll reports this one again.
func (c *Cluster) noteBlankVoter(instance domain.Instance) {
	select {
	case c.blankVoters <- instance:
	default:
	}
}

// readmit demotes voters that have come back blank to nonvoters with a promotion, while
// this instance leads. Until that is committed, such a voter neither votes nor accepts
// entries.
func (c *Cluster) readmit(ctx context.Context) {
	failing := map[string]bool{}
	for {
		var instance domain.Instance
		select {
		case instance = <-c.blankVoters:
		case <-ctx.Done():
			return
		}
		if state, _ := c.Local.State(); !state.Leading {
			continue
		}
		err := c.readmitOne(ctx, instance)
		if err != nil && !failing[instance.ID] && ctx.Err() == nil {
			// Log it once, not every second.
			c.Logger.Warn("a voter has come back without what it had acknowledged, and can't be made a nonvoter yet", "id", instance.ID, "reason", err)
		}
		failing[instance.ID] = err != nil
	}
}

func (c *Cluster) readmitOne(ctx context.Context, instance domain.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, readmitTimeout)
	defer cancel()
	// Much may have changed since it was reported.
	state, _ := c.Local.State()
	if now, _ := state.Roster.Find(instance.ID); now != instance {
		return nil
	}
	identity, err := c.identifyMember(ctx, instance.ID, instance.RaftAddress)
	if err != nil || !identity.Quarantined {
		return err
	}
	roster, release, err := c.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer release()
	// It may have been removed or moved while it was asked.
	if now, _ := roster.Find(instance.ID); now != instance {
		return nil
	}
	if err := c.stage(ctx, instance, true); err != nil {
		return err
	}
	c.Logger.Warn("a voter has come back without what it had acknowledged: it is a nonvoter until it has caught up", "id", instance.ID)
	return nil
}
