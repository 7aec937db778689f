package consensus

import (
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// subject is a real cluster for the suites of the ports. It has two voters, so
// that it is certain who takes over from the leader.
func subject(tb testing.TB) portstest.Subject { return subjectWith(tb, func(*instanceConfig) {}) }

// inSmallParts is subject where a restore is written in parts of a node or two.
func inSmallParts(tb testing.TB) portstest.Subject {
	return subjectWith(tb, func(config *instanceConfig) { config.seams.restorePartBytes = 256 })
}

func subjectWith(tb testing.TB, change func(*instanceConfig)) portstest.Subject {
	cluster := startCluster(tb, 2, func(config *instanceConfig) {
		change(config)
		// The suites keep processors busy, and the leader must stay.
		config.timing = func(timing *Timing) {
			timing.HeartbeatTimeout, timing.ElectionTimeout = 500*time.Millisecond, 500*time.Millisecond
		}
	})
	follower := cluster[1].ports()
	return portstest.Subject{
		Leader:     cluster[0].ports(),
		Follower:   &follower,
		StopLeader: func() { cluster[0].stop(tb) },
	}
}

func (i *instance) ports() portstest.Ports {
	return portstest.Ports{ID: i.config.ID, Registry: i, Local: i, Membership: i, Promotions: i, Restorer: i}
}

func TestRegistryPort(t *testing.T)   { portstest.RunRegistry(t, subject) }
func TestLocalPort(t *testing.T)      { portstest.RunLocal(t, subject) }
func TestMembershipPort(t *testing.T) { portstest.RunMembership(t, subject) }
func TestPromotionsPort(t *testing.T) { portstest.RunPromotions(t, subject) }
func TestRestorerPort(t *testing.T)   { portstest.RunRestorer(t, inSmallParts) }

var (
	_ ports.Registry   = (*Node)(nil)
	_ ports.Local      = (*Node)(nil)
	_ ports.Membership = (*Node)(nil)
	_ ports.Promotions = (*Node)(nil)
	_ ports.Restorer   = (*Node)(nil)
	_ ports.Progress   = (*Node)(nil)
)
