package consensus

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// subject is a real cluster for the test suites of the ports. It has two voters, so that the
// successor of the leader is certain.
func subject(tb testing.TB) portstest.Subject { return subjectWith(tb, func(*instanceConfig) {}) }

// inSmallParts is a subject whose restores are written in parts of one or two nodes.
func inSmallParts(tb testing.TB) portstest.Subject {
	s := subjectWith(tb, func(config *instanceConfig) { config.hooks.restorePartBytes = 256 })
	tellFormats(tb, []*instance{s.Leader.Registry.(*instance), s.Follower.Registry.(*instance)})
	return s
}

func subjectWith(tb testing.TB, change func(*instanceConfig)) portstest.Subject {
	cluster := startCluster(tb, 2, change)
	follower := cluster[1].ports()
	return portstest.Subject{
		Leader:     cluster[0].ports(),
		Follower:   &follower,
		StopLeader: func() { cluster[0].stop(tb) },
	}
}

// upgraded is a subject whose leader reads format 3, which some registrations need.
func upgraded(tb testing.TB) portstest.FormatsSubject {
	s := subject(tb)
	leader := s.Leader.Registry.(*instance)
	leader.formats.own = 3
	leader.hooks.formatOf = func(entry any) int {
		if _, ok := entry.(domain.Deregister); ok {
			return 2
		}
		return codec.FirstFormat
	}
	return portstest.FormatsSubject{Subject: s, Newer: domain.Deregister{ID: "a"}, Needs: 2, Own: 3}
}

func (i *instance) ports() portstest.Ports {
	return portstest.Ports{ID: i.config.ID, Registry: i, Local: i, Membership: i, Leadership: i, Promotions: i, Formats: i, Restorer: i}
}

func TestRegistryPort(t *testing.T)   { portstest.RunRegistry(t, subject) }
func TestLocalPort(t *testing.T)      { portstest.RunLocal(t, subject) }
func TestMembershipPort(t *testing.T) { portstest.RunMembership(t, subject) }
func TestPromotionsPort(t *testing.T) { portstest.RunPromotions(t, subject) }
func TestFormatsPort(t *testing.T)    { portstest.RunFormats(t, upgraded) }
func TestRestorerPort(t *testing.T)   { portstest.RunRestorer(t, inSmallParts) }

var (
	_ ports.Registry    = (*Node)(nil)
	_ ports.Local       = (*Node)(nil)
	_ ports.Membership  = (*Node)(nil)
	_ ports.Leadership  = (*Node)(nil)
	_ ports.Promotions  = (*Node)(nil)
	_ ports.Formats     = (*Node)(nil)
	_ ports.Restorer    = (*Node)(nil)
	_ ports.ReadIndexer = (*Node)(nil)
)
