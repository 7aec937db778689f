package consensus

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// One voter was away when another one took the place of a third. Then two of three are
// here.
func TestAnInstanceVotesForAVoterThatItDoesNotKnowYet(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"a nonvoter it knew": true, "somebody new": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
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
				t.Errorf("leader = %s, want the joining instance", next.config.ID)
			}
		})
	}
}

func TestACandidateThatIsAheadMayBeAVoter(t *testing.T) {
	members := []raft.Server{
		{ID: "self", Suffrage: raft.Nonvoter},
		{ID: "first", Suffrage: raft.Voter},
		{ID: "second", Suffrage: raft.Voter},
		{ID: "third", Suffrage: raft.Nonvoter},
	}
	tests := map[string]struct {
		candidate   string
		index, term uint64
		unknown     bool // what the log ends with
		voter       bool // the candidate is one, as raft sees it
	}{
		"a later term":                  {candidate: "third", index: 1, term: 8, voter: true},
		"more of the same term":         {candidate: "third", index: 11, term: 7, voter: true},
		"somebody new":                  {candidate: "fourth", index: 11, term: 7, voter: true},
		"a voter":                       {candidate: "first", index: 11, term: 7, voter: true},
		"a voter that is not ahead":     {candidate: "second", index: 1, term: 7, voter: true},
		"the same":                      {candidate: "third", index: 10, term: 7},
		"less of the same term":         {candidate: "third", index: 9, term: 7},
		"more of an earlier term":       {candidate: "third", index: 20, term: 6},
		"this instance does not know":   {candidate: "third", index: 11, term: 7, unknown: true},
		"before raft knows any members": {candidate: "third", index: 11, term: 7},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			known := members
			if strings.HasPrefix(name, "before raft") {
				known = nil
			}
			e := &electorate{
				members:   func() []raft.Server { return known },
				lastEntry: func() (uint64, uint64, bool) { return 10, 7, !test.unknown },
			}
			header := raft.RPCHeader{ID: []byte(test.candidate)}
			before := &raft.RequestPreVoteRequest{RPCHeader: header, LastLogIndex: test.index, LastLogTerm: test.term}
			vote := &raft.RequestVoteRequest{RPCHeader: header, LastLogIndex: test.index, LastLogTerm: test.term}
			e.enfranchise(before)
			e.enfranchise(vote)
			for _, id := range []string{string(before.ID), string(vote.ID)} {
				if voter := id == "first" || id == "second"; voter != test.voter || !voter && id != test.candidate {
					t.Errorf("raft is asked to vote for %s", id)
				}
			}
		})
	}
}

// A nonvoter that is to be a voter does not know of it, and its vote is needed.
func TestANonvoterVotesForAVoterThatIsAhead(t *testing.T) {
	t.Parallel()
	with := &atomic.Pointer[tampering]{}
	leader := startCluster(t, 1, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return tampered{inner, with} }
	})[0]
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir()})
	mustAdd(t, leader, domain.Instance{ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: domain.Nonvoter})
	joining.eventually(t, "out of quarantine", func(s ports.LocalState) bool { return trusted(s) && s.Member && s.CaughtUp })
	joining.stop(t)
	// Raft goes on sending for a moment when it leads no more.
	before := leader.raft.CurrentTerm()
	lost := tampering(func(_ raft.ServerID, request *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) (bool, error) {
		return request.Term == before, errCut
	})
	with.Store(&lost)
	// A lone voter commits that by itself, and then is no majority any more: it may not
	// even be able to say so.
	_ = leader.Add(within(t), domain.Instance{ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: domain.Voter})
	leader.eventually(t, "leads no more", func(s ports.LocalState) bool { return !s.Leading })
	joining = again(t, joining, nil)
	leader.eventually(t, "leading", leading)
	joining.becomes(t, domain.Voter)
}

// A candidate that was told to take over hears another leader of its term, which raft
// has from then on, and which is gone.
func TestACandidateVotesInsteadOfALeaderThatIsGone(t *testing.T) {
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = patiently })
	candidate, other := cluster[2], cluster[1]
	cluster[0].stop(t)
	other.stop(t)
	ask := func(command any) any {
		t.Helper()
		answer := make(chan raft.RPCResponse, 1)
		candidate.interceptor.forward(raft.RPC{Command: command, RespChan: answer})
		select {
		case got := <-answer:
			if got.Error != nil {
				t.Fatal(got.Error)
			}
			return got.Response
		case <-time.After(patience):
			t.Fatalf("%T is not answered", command)
		}
		return nil
	}
	header := func(id, address string) raft.RPCHeader {
		return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(address)}
	}
	before := candidate.raft.CurrentTerm()
	ask(&raft.TimeoutNowRequest{RPCHeader: header("anybody", "anybody:1")})
	until(t, "it stands for election", func() bool { return candidate.raft.CurrentTerm() > before })
	term := candidate.raft.CurrentTerm()
	ask(&raft.AppendEntriesRequest{RPCHeader: header("gone", "gone:1"), Term: term})
	if leader, _ := candidate.raft.LeaderWithID(); candidate.raft.State() != raft.Candidate || leader != "gone:1" {
		t.Fatalf("raft is a %s, and its leader %q: this test is for something else", candidate.raft.State(), leader)
	}
	until(t, "it would vote", func() bool {
		return ask(&raft.RequestPreVoteRequest{
			RPCHeader:    header(other.config.ID, other.raftAddress()),
			Term:         term + 1,
			LastLogTerm:  term,
			LastLogIndex: candidate.raft.LastIndex() + 1,
		}).(*raft.RequestPreVoteResponse).Granted
	})
}
