package app

import (
	"context"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// readmitTimeout bounds one try to make a nonvoter of a voter in quarantine.
const readmitTimeout = 5 * time.Second

// isBlank: it does not know what it has acknowledged, if it has.
func isBlank(identity ports.Identity) bool { return identity.ClusterID == "" || identity.Quarantined }

// noticeBlank remembers that a voter is in quarantine; whoever comes while another one is
// looked after is noticed again.
func (c *Cluster) noticeBlank(instance domain.Instance) {
	select {
	case c.blank <- instance:
	default:
	}
}

// readmit takes voters that have come back blank for what they are, as long as this
// instance leads: nonvoters, that are to be voters. Until the others have committed
// that, such a voter neither votes nor takes an entry.
func (c *Cluster) readmit(ctx context.Context) {
	failing := map[string]bool{}
	for {
		var instance domain.Instance
		select {
		case instance = <-c.blank:
		case <-ctx.Done():
			return
		}
		if state, _ := c.Local.State(); !state.Leading {
			continue
		}
		err := c.readmitOne(ctx, instance)
		if err != nil && !failing[instance.ID] && ctx.Err() == nil {
			// Once, not every second for as long as it takes.
			c.Logger.Warn("a voter has come back without what it had acknowledged, and can't be made a nonvoter yet", "id", instance.ID, "reason", err)
		}
		failing[instance.ID] = err != nil
	}
}

func (c *Cluster) readmitOne(ctx context.Context, instance domain.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, readmitTimeout)
	defer cancel()
	// It may have come a long way since it was noticed.
	state, _ := c.Local.State()
	if now, _ := state.Roster.Find(instance.ID); now != instance {
		return nil
	}
	identity, err := c.hearFrom(ctx, instance.ID, instance.RaftAddress)
	if err != nil || !identity.Quarantined {
		return err
	}
	roster, release, err := c.changing(ctx)
	if err != nil {
		return err
	}
	defer release()
	// It was asked for a while, and may have been removed or moved meanwhile.
	if now, _ := roster.Find(instance.ID); now != instance {
		return nil
	}
	if err := c.stage(ctx, instance, true); err != nil {
		return err
	}
	c.Logger.Warn("a voter has come back without what it had acknowledged: it is a nonvoter until it has caught up", "id", instance.ID)
	return nil
}
