package consensus

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// By mistake, an operator adds an instance that the cluster must not talk to.
func TestARefusedPeerLearnsNothingAndDelaysNobody(t *testing.T) {
	const secret = "what the cluster knows"
	for name, stranger := range map[string]instanceConfig{
		"an instance with another secret":                 {secret: "what the stranger knows"},
		"an instance without a secret":                    {},
		"an instance of another cluster":                  {secret: secret, bootstrap: true},
		"an instance of another cluster without a secret": {bootstrap: true},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 2, func(config *instanceConfig) { config.secret = secret })
			leader := cluster[0]
			stranger.id, stranger.directory = "stranger", t.TempDir()
			s := start(t, stranger)
			if stranger.bootstrap {
				s.eventually(t, "leading a cluster of its own", leading)
			}
			before, _ := s.State()
			err := leader.Add(within(t), domain.Instance{ID: "stranger", RaftAddress: s.raftAddress(), Suffrage: domain.Nonvoter})
			if err != nil {
				t.Fatal(err)
			}
			// Several refusals show that the first was no accident.
			until(t, "the stranger was refused several times", func() bool {
				return s.demux.Stats().Rejected[demux.HandshakeFailed] >= 3
			})
			change := register(t, leader, "secret")
			cluster[1].waitForRevision(t, change.Revision)
			after, _ := s.State()
			if after.View.Revision() != before.View.Revision() || after.ClusterID != before.ClusterID ||
				!after.Roster.Equal(before.Roster) || after.LeaderID != before.LeaderID {
				t.Errorf("state of the stranger = %+v, want it unchanged from %+v", after, before)
			}
			if n := s.demux.Stats().Lanes[RaftLane].HandedOver; n != 0 {
				t.Errorf("connections that reached raft = %d, want none", n)
			}
		})
	}
}

// An address passes to another instance. That must not vote in the place of the previous
// one, whose vote and acknowledgement could then count twice.
func TestAnotherInstanceAtAnAddressIsRefused(t *testing.T) {
	cluster := startCluster(t, 2, nil)
	leader, gone := cluster[0], cluster[1]
	gone.stop(t)
	heir := start(t, instanceConfig{id: "heir", directory: t.TempDir(), address: gone.raftAddress()})
	leader.eventually(t, "deposed without a majority", func(s ports.LocalState) bool { return !s.Leading })
	until(t, "the instance with the inherited address was asked several times", func() bool { return heir.demux.Stats().Accepted >= 3 })
	if state, _ := heir.State(); state.LeaderID != "" || state.Term != 0 || state.Member || state.View.Revision() != 0 {
		t.Errorf("state of the instance with the inherited address = %+v, want no contact with the cluster", state)
	}
	if state, _ := leader.State(); state.Leading {
		t.Error("the instance leads with the vote of a stranger")
	}
	heir.stop(t)
	back := restart(t, gone, nil)
	register(t, leaderOf(t, []*instance{leader, back}), "after")
}
