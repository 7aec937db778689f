package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// requestVote lets candidate, with an address that belongs to no instance, ask voter for its
// vote, and returns whether that was granted. The candidate's log ends with entry lastIndex
// of lastTerm.
func requestVote(t *testing.T, candidate, voter *instance, term, lastIndex, lastTerm uint64) bool {
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

// requestVoteAhead lets candidate ask in a much later term, with a log that is far ahead.
func requestVoteAhead(t *testing.T, candidate, voter *instance) (granted bool) {
	t.Helper()
	return requestVote(t, candidate, voter, 100_000, 1_000_000, 99_999)
}

// An address can pass to another instance, so a vote must not count for every candidate with
// that address.
func TestAVoteIsForOneCandidateEvenIfAnotherHasItsAddress(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leaderOf(t, cluster)
	first, second, voter := cluster[0], cluster[1], cluster[2]
	if !requestVoteAhead(t, first, voter) {
		t.Fatal("vote for a candidate that is ahead = false, want true")
	}
	if requestVoteAhead(t, second, voter) {
		t.Error("vote for a second candidate with the same address and term = true, want false")
	}
	if !requestVoteAhead(t, first, voter) {
		t.Error("second vote for the same candidate and term = false, want true")
	}
}

// Raft stores the term of a vote first, and its candidate after that.
func TestAHalfStoredVoteIsForNobody(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader := leaderOf(t, cluster)
	register(t, leader, "acknowledged")
	candidate, voter := cluster[0], cluster[2]
	if !requestVoteAhead(t, candidate, voter) {
		t.Fatal("vote for a candidate that is ahead = false, want true")
	}
	if err := voter.disk.SetUint64(logstore.VoteTermKey, 100_001); err != nil {
		t.Fatal(err) // from here on as if the voter had been killed
	}
	if requestVote(t, candidate, voter, 100_001, 1, 1) {
		t.Error("vote for a candidate that lacks most of the log = true, want false")
	}
}
