package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// asksForVote has candidate, at an address that is nobody's, ask voter for its vote, and
// says whether it has it. Its log ends with entry lastIndex of lastTerm.
func asksForVote(t *testing.T, candidate, voter *instance, term, lastIndex, lastTerm uint64) bool {
	t.Helper()
	request := &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate.config.ID), Addr: []byte("10.0.0.7:7000"),
		},
		Term: term, LastLogIndex: lastIndex, LastLogTerm: lastTerm, LeadershipTransfer: true,
	}
	var answer raft.RequestVoteResponse
	to := raft.ServerAddress(voter.raftAddress())
	if err := candidate.interceptor.transport.RequestVote(raft.ServerID(voter.config.ID), to, request, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Granted
}

// asksFromAhead has candidate ask in a term far away, with a log that is far ahead.
func asksFromAhead(t *testing.T, candidate, voter *instance) (granted bool) {
	t.Helper()
	return asksForVote(t, candidate, voter, 100_000, 1_000_000, 99_999)
}

// An address can change hands: in one term one of those who have it may have a vote.
func TestAVoteIsForOneCandidateWhoeverHasItsAddress(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leaderOf(t, cluster)
	first, second, voter := cluster[0], cluster[1], cluster[2]
	if !asksFromAhead(t, first, voter) {
		t.Fatal("a candidate that is ahead got no vote")
	}
	if asksFromAhead(t, second, voter) {
		t.Error("another one at the same address has the vote of the same term, too")
	}
	if !asksFromAhead(t, first, voter) {
		t.Error("the same candidate got no vote the second time")
	}
}

// Raft stores the term of a vote, and then whom that is for.
func TestAHalfStoredVoteIsForNobody(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader := leaderOf(t, cluster)
	register(t, leader, "acknowledged")
	candidate, voter := cluster[0], cluster[2]
	if !asksFromAhead(t, candidate, voter) {
		t.Fatal("a candidate that is ahead got no vote")
	}
	if err := voter.disk.SetUint64(logstore.VoteTermKey, 100_001); err != nil {
		t.Fatal(err) // it is as if it were killed here
	}
	if asksForVote(t, candidate, voter, 100_001, 1, 1) {
		t.Error("a candidate without nearly all of the log got a vote in the next term")
	}
}
