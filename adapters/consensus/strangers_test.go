package consensus

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Somebody adds, by mistake, an instance that must not be talked to.
func TestWhoMustNotBeTalkedToLearnsNothingAndHoldsNobodyUp(t *testing.T) {
	const secret = "what the cluster knows"
	for name, stranger := range map[string]instanceConfig{
		"an instance with another secret":   {secret: "what the stranger knows"},
		"an instance without a secret":      {},
		"an instance of another cluster":    {secret: secret, bootstrap: true},
		"one with neither secret nor place": {bootstrap: true},
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
			// A few times, so that the first was no accident.
			until(t, "the stranger has refused, or was refused", func() bool {
				return s.demux.Stats().Rejected[demux.HandshakeFailed] >= 3
			})
			change := register(t, leader, "secret")
			cluster[1].arrives(t, change.Revision)
			after, _ := s.State()
			if after.View.Revision() != before.View.Revision() || after.ClusterID != before.ClusterID ||
				!after.Roster.Equal(before.Roster) || after.LeaderID != before.LeaderID {
				t.Errorf("the stranger has learnt something: %+v, was %+v", after, before)
			}
			if n := s.demux.Stats().Lanes[RaftLane].HandedOver; n != 0 {
				t.Errorf("%d connections came through to raft", n)
			}
		})
	}
}
