package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// One voter was away when another one took the place of a third. Then two of three are
// here.
func TestWhoWasAwayVotesForWhoBecameAVoterMeanwhile(t *testing.T) {
	for name, known := range map[string]bool{"a nonvoter it knew": true, "somebody new": false} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 3, nil)
			leader, away, replaced := cluster[0], cluster[1], cluster[2]
			joining := start(t, instanceConfig{id: "joining", directory: t.TempDir()})
			if known {
				mustAdd(t, leader, domain.Instance{ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: domain.Nonvoter})
				away.eventually(t, "knows a nonvoter", func(s ports.LocalState) bool {
					_, is := s.Roster.Find(joining.config.ID)
					return is
				})
			}
			away.stop(t)
			admit(t, leader, joining)
			if err := leader.Remove(within(t), replaced.config.ID); err != nil {
				t.Fatal(err)
			}
			replaced.stop(t)
			leader.stop(t)
			away = again(t, away, nil)
			next := leaderOf(t, []*instance{away, joining})
			if next != joining {
				t.Errorf("%s leads, which was away", next.config.ID)
			}
		})
	}
}

func TestWhoIsAheadMayBeAVoter(t *testing.T) {
	tests := map[string]struct {
		index, term uint64
		unknown     bool
		ahead       bool
	}{
		"a later term":                {index: 1, term: 8, ahead: true},
		"more of the same term":       {index: 11, term: 7, ahead: true},
		"the same":                    {index: 10, term: 7},
		"less of the same term":       {index: 9, term: 7},
		"more of an earlier term":     {index: 20, term: 6},
		"this instance does not know": {index: 11, term: 7, unknown: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := &witness{self: []byte("self"), lastEntry: func() (uint64, uint64, bool) { return 10, 7, !test.unknown }}
			want := "other"
			if test.ahead {
				want = "self"
			}
			before := &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("other")}, LastLogIndex: test.index, LastLogTerm: test.term}
			vote := &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("other")}, LastLogIndex: test.index, LastLogTerm: test.term}
			w.enfranchise(before)
			w.enfranchise(vote)
			if string(before.ID) != want || string(vote.ID) != want {
				t.Errorf("raft is asked to vote for %s, and for %s", before.ID, vote.ID)
			}
		})
	}
}
