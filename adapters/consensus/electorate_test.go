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

// One voter was down while another instance replaced a third. Now two of three voters are
// there: one knows only the old membership.
func TestAnInstanceVotesForAVoterThatItDoesNotKnowYet(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"a voter that it knows as a nonvoter": true, "an instance that it does not know": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := startCluster(t, 3, nil)
			leader, away, replaced := cluster[0], cluster[1], cluster[2]
			joining := start(t, instanceConfig{id: "joining", directory: t.TempDir()})
			if known {
				mustAdd(t, leader, domain.Instance{ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: domain.Nonvoter})
				away.eventually(t, "aware of the nonvoter", func(s ports.LocalState) bool {
					_, is := s.Roster.Find(joining.config.ID)
					return is
				})
			}
			away.stop(t)
			addVoter(t, leader, joining)
			if err := leader.Remove(within(t), replaced.config.ID); err != nil {
				t.Fatal(err)
			}
			replaced.stop(t)
			leader.stop(t)
			away = restart(t, away, nil)
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
		unknown     bool // the end of the own log is not known
		voter       bool // raft sees the candidate as a voter
	}{
		"a nonvoter with a later last term":               {candidate: "third", index: 1, term: 8, voter: true},
		"a nonvoter with a longer log of the same term":   {candidate: "third", index: 11, term: 7, voter: true},
		"an instance that it does not know":               {candidate: "fourth", index: 11, term: 7, voter: true},
		"a voter with a longer log":                       {candidate: "first", index: 11, term: 7, voter: true},
		"a voter that is not ahead":                       {candidate: "second", index: 1, term: 7, voter: true},
		"a nonvoter with the same log":                    {candidate: "third", index: 10, term: 7},
		"a nonvoter with a shorter log":                   {candidate: "third", index: 9, term: 7},
		"a nonvoter with a longer log of an earlier term": {candidate: "third", index: 20, term: 6},
		"the end of the own log is unknown":               {candidate: "third", index: 11, term: 7, unknown: true},
		"before raft knows any membership":                {candidate: "third", index: 11, term: 7},
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
					t.Errorf("raft is asked to vote for %s, which is the wrong instance", id)
				}
			}
		})
	}
}

// A nonvoter does not know of its promotion yet, but the cluster needs its vote.
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
	// Raft goes on sending for a moment after it has lost leadership.
	before := leader.raft.CurrentTerm()
	lost := tampering(func(_ raft.ServerID, request *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) (bool, error) {
		return request.Term == before, errCut
	})
	with.Store(&lost)
	// A lone voter commits the promotion by itself, and then is no majority any more: it may
	// not even be able to answer.
	_ = leader.Add(within(t), domain.Instance{ID: joining.config.ID, RaftAddress: joining.raftAddress(), Suffrage: domain.Voter})
	leader.eventually(t, "deposed", func(s ports.LocalState) bool { return !s.Leading })
	joining = restart(t, joining, nil)
	leader.eventually(t, "leading", leading)
	joining.mustBecome(t, domain.Voter)
}

// A candidate that was told to take over hears from another leader of its term. Raft regards
// that one as the leader from then on, although it is gone.
func TestACandidateVotesInsteadOfALeaderThatIsGone(t *testing.T) {
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = longTimeouts })
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
			t.Fatalf("no answer to %T", command)
		}
		return nil
	}
	header := func(id, address string) raft.RPCHeader {
		return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(address)}
	}
	before := candidate.raft.CurrentTerm()
	ask(&raft.TimeoutNowRequest{RPCHeader: header("anybody", "anybody:1")})
	until(t, "the candidate stands for election", func() bool { return candidate.raft.CurrentTerm() > before })
	term := candidate.raft.CurrentTerm()
	ask(&raft.AppendEntriesRequest{RPCHeader: header("gone", "gone:1"), Term: term})
	if leader, _ := candidate.raft.LeaderWithID(); candidate.raft.State() != raft.Candidate || leader != "gone:1" {
		t.Fatalf("raft is a %s with leader %q, want a candidate with leader gone:1: otherwise the test shows nothing", candidate.raft.State(), leader)
	}
	until(t, "the candidate grants a pre-vote", func() bool {
		return ask(&raft.RequestPreVoteRequest{
			RPCHeader:    header(other.config.ID, other.raftAddress()),
			Term:         term + 1,
			LastLogTerm:  term,
			LastLogIndex: candidate.raft.LastIndex() + 1,
		}).(*raft.RequestPreVoteResponse).Granted
	})
}
