package consensus

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// subject is a real cluster for the suites of the ports. It has two voters, so
// that it is certain who takes over from the leader.
func subject(tb testing.TB) portstest.Subject {
	cluster := startCluster(tb, 2, nil)
	follower := cluster[1].ports()
	return portstest.Subject{Leader: cluster[0].ports(), Follower: &follower}
}

func (i *instance) ports() portstest.Ports {
	return portstest.Ports{ID: i.config.ID, Registry: i, Local: i, Membership: i, Promotions: i}
}

func TestRegistryPort(t *testing.T)   { portstest.RunRegistry(t, subject) }
func TestLocalPort(t *testing.T)      { portstest.RunLocal(t, subject) }
func TestMembershipPort(t *testing.T) { portstest.RunMembership(t, subject) }
func TestPromotionsPort(t *testing.T) { portstest.RunPromotions(t, subject) }

var (
	_ ports.Registry   = (*Node)(nil)
	_ ports.Local      = (*Node)(nil)
	_ ports.Membership = (*Node)(nil)
	_ ports.Promotions = (*Node)(nil)
	_ ports.Progress   = (*Node)(nil)
)
