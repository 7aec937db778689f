package consensus

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// testVoter is an interceptor whose raft is played by the test.
type testVoter struct {
	*interceptor
	inner    *incoming
	leader   raft.ServerAddress // empty: raft follows no leader
	steadily chan raft.RPC      // heartbeats that raft handles beside its main goroutine
	trouble  error              // trouble with the disk
}

const testHeartbeat = 300 * time.Millisecond

func newTestVoter(t *testing.T, leader raft.ServerAddress) *testVoter {
	t.Helper()
	v := &testVoter{inner: &incoming{rpcs: make(chan raft.RPC)}, leader: leader, steadily: make(chan raft.RPC, 1)}
	v.interceptor = newInterceptor(v.inner, interceptorConfig{evidence: newEvidence(), term: func() uint64 { return 7 }})
	follows := func() (raft.ServerAddress, bool) { return v.leader, v.leader != "" }
	v.votes.start(testHeartbeat, func() uint64 { return 7 }, follows, func() error { return v.trouble })
	v.SetHeartbeatHandler(func(rpc raft.RPC) { v.steadily <- rpc })
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func (v *testVoter) heartbeat() {
	v.inner.heartbeat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: 7}})
}

// passes returns the request that raft gets, and the delay.
func (v *testVoter) passes(command any) (asked any, after time.Duration) {
	began := time.Now()
	go func() { v.inner.rpcs <- raft.RPC{Command: command, RespChan: make(chan raft.RPCResponse, 1)} }()
	return (<-v.Consumer()).Command, time.Since(began)
}

func TestWhenAVoterIsFree(t *testing.T) {
	const half = testHeartbeat / 2
	tests := map[string]struct {
		silence time.Duration // since the last contact with the leader
		gone    bool          // the leader's process is gone
		free    bool
	}{
		"contact half a heartbeat timeout ago":                        {half, false, false},
		"contact just less than a heartbeat timeout ago":              {testHeartbeat - time.Millisecond, false, false},
		"contact a heartbeat timeout ago":                             {testHeartbeat, false, true},
		"leader gone, contact less than half a heartbeat timeout ago": {half - time.Millisecond, true, false},
		"leader gone, contact half a heartbeat timeout ago":           {half, true, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newTestVoter(t, "leader:1")
				v.heartbeat()
				<-v.steadily
				if test.gone {
					<-time.After(time.Millisecond)
					v.votes.noteLeaderGone(time.Now())
					test.silence -= time.Millisecond
				}
				<-time.After(test.silence)
				asked, _ := v.passes(&raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{Addr: []byte("candidate:1")}})
				if free := string(asked.(*raft.RequestPreVoteRequest).Addr) == "leader:1"; free != test.free {
					t.Errorf("pre-vote without regard to the leader = %v, want %v", free, test.free)
				}
				asked, _ = v.passes(&raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{Addr: []byte("candidate:1")}})
				vote := asked.(*raft.RequestVoteRequest)
				if vote.LeadershipTransfer != test.free {
					t.Errorf("vote without regard to the leader = %v, want %v", vote.LeadershipTransfer, test.free)
				}
				if string(vote.Addr) != "candidate:1" {
					t.Errorf("candidate of the vote = %s, want candidate:1", vote.Addr)
				}
			})
		})
	}
}

// Otherwise raft would stand for election, wait for the disk with its own vote, and leave
// the leader's heartbeats unanswered.
func TestAnInstanceThatCannotStoreItsVoteDoesNotTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "leader:1")
		v.trouble = errors.New("the disk is full")
		answer := make(chan raft.RPCResponse, 1)
		v.inner.rpcs <- raft.RPC{Command: &raft.TimeoutNowRequest{}, RespChan: answer}
		synctest.Wait()
		select {
		case got := <-answer:
			if !errors.Is(got.Error, v.trouble) {
				t.Errorf("answer to the order to take over = %+v, want %v", got, v.trouble)
			}
		case rpc := <-v.Consumer():
			t.Errorf("request given to raft = %+v, want none", rpc.Command)
		}
		if asked, _ := v.passes(&raft.RequestVoteRequest{}); asked == nil {
			t.Error("the second request for a vote was not passed on")
		}
	})
}

// At a restart raft forgets which leader it had contact with, and that leader may still rely
// on its vote.
func TestAnInstanceThatHasJustStartedIsAskedForNoVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "")
		if _, after := v.passes(&raft.RequestVoteRequest{LeadershipTransfer: true}); after != 0 {
			t.Errorf("delay of a vote for the chosen successor = %v, want none", after)
		}
		if _, after := v.passes(&raft.RequestPreVoteRequest{}); after != testHeartbeat/2 {
			t.Errorf("delay of a prevote = %v, want %v", after, testHeartbeat/2)
		}
		if _, after := v.passes(&raft.RequestVoteRequest{}); after != 0 {
			t.Errorf("delay of a vote after half a heartbeat timeout = %v, want none", after)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "")
		if _, after := v.passes(&raft.RequestVoteRequest{}); after != testHeartbeat/2 {
			t.Errorf("delay of a vote = %v, want %v", after, testHeartbeat/2)
		}
	})
}

func TestAVoteThatIsHeldBackEndsWithTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "")
		answer := make(chan raft.RPCResponse, 1)
		v.inner.rpcs <- raft.RPC{Command: &raft.RequestVoteRequest{}, RespChan: answer}
		synctest.Wait()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if got := <-answer; got.Error == nil {
			t.Errorf("answer = %+v, want an error", got)
		}
	})
}

func TestAnInstanceMayBeClosedWhileItStandsForElection(t *testing.T) {
	for range 200 {
		v := newTestVoter(t, "leader:1")
		v.votes.heard = time.Now().Add(-testHeartbeat)
		v.votes.noteLeaderGone(time.Now())
		var running sync.WaitGroup
		running.Go(func() {
			select {
			case <-v.Consumer():
			case <-v.stopped:
			}
		})
		running.Go(v.stand)
		running.Go(func() {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
		running.Wait()
	}
}

// Two heartbeats that come at the same time may be noted in any order.
func TestALeaderThatIsHeardCountsFromTheLatestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "leader:1")
		earlier := time.Now()
		<-time.After(testHeartbeat)
		v.heartbeat()
		<-v.steadily
		v.votes.noteLeader(earlier)
		asked, _ := v.passes(&raft.RequestVoteRequest{})
		if asked.(*raft.RequestVoteRequest).LeadershipTransfer {
			t.Error("the request was passed on as a transfer although a heartbeat was just acknowledged")
		}
	})
}

// A heartbeat that is handled beside a vote could be acknowledged by an instance that has
// just voted against the sender.
func TestAHeartbeatThatMeetsAVoteIsLeftToRaftsMainGoroutine(t *testing.T) {
	tests := map[string]struct {
		leader  raft.ServerAddress
		voting  bool
		silence time.Duration
		beside  bool
	}{
		"raft is deciding on a vote":                   {"leader:1", true, 0, false},
		"no leader, and a vote may come at any moment": {"", false, testHeartbeat / 2, false},
		"a heartbeat of its leader":                    {"leader:1", false, testHeartbeat / 2, true},
		"no leader, and too early for a vote":          {"", false, testHeartbeat/2 - time.Millisecond, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newTestVoter(t, test.leader)
				<-time.After(test.silence)
				vote := raft.RPC{Command: &raft.RequestVoteRequest{}, RespChan: make(chan raft.RPCResponse, 1)}
				if test.voting {
					go func() { v.inner.rpcs <- vote }()
					vote = <-v.Consumer()
				}
				go v.heartbeat()
				select {
				case <-v.Consumer():
					if test.beside {
						t.Error("the heartbeat waits for the main goroutine, want it handled beside")
					}
				case <-v.steadily:
					if !test.beside {
						t.Error("the heartbeat is handled beside the main goroutine, want it to wait")
					}
				}
				vote.Respond(&raft.RequestVoteResponse{}, nil)
				synctest.Wait()
				v.heartbeat()
				<-v.steadily // no vote is under way any more
			})
		})
	}
}

func TestAHintHoldsOnlyUntilTheLeaderIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "leader:1")
		before := time.Now()
		<-time.After(time.Millisecond)
		v.heartbeat()
		<-v.steadily
		if v.votes.noteLeaderGone(before) || v.votes.mayStand() {
			t.Error("noteLeaderGone before the last contact = true, or the instance may stand, want neither")
		}
		<-time.After(time.Millisecond)
		if !v.votes.noteLeaderGone(time.Now()) || !v.votes.mayStand() {
			t.Error("noteLeaderGone = false, or the instance may not stand, want both")
		}
		v.heartbeat()
		<-v.steadily
		if v.votes.mayStand() {
			t.Error("mayStand after new contact = true, want false")
		}
		v.votes.answered(&raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{Granted: true})
		v.heartbeat()
		<-v.steadily
		<-time.After(time.Millisecond)
		if !v.votes.noteLeaderGone(time.Now()) || !v.votes.mayStand() {
			t.Error("noteLeaderGone after an earlier contact = false, or the instance may not stand, want both")
		}
	})
}

func TestAnInstanceThatWouldVoteForAnotherDoesNotStand(t *testing.T) {
	for name, test := range map[string]struct{ granted, stands bool }{
		"the instance granted a pre-vote":                                   {true, false},
		"the instance refused a pre-vote to a candidate with a shorter log": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newTestVoter(t, "leader:1")
				<-time.After(testHeartbeat / 2)
				v.votes.noteLeaderGone(time.Now())
				answer := make(chan raft.RPCResponse, 1)
				go func() { v.inner.rpcs <- raft.RPC{Command: &raft.RequestPreVoteRequest{}, RespChan: answer} }()
				rpc := <-v.Consumer()
				rpc.Respond(&raft.RequestPreVoteResponse{Granted: test.granted}, nil)
				if vote := (<-answer).Response.(*raft.RequestPreVoteResponse); vote.Granted != test.granted {
					t.Errorf("pre-vote answered to the candidate = %v, want raft's answer", vote.Granted)
				}
				if v.votes.mayStand() != test.stands {
					t.Errorf("mayStand = %v, want %v", !test.stands, test.stands)
				}
			})
		})
	}
}

// Raft does not know a leader yet whose first contact came while the vote waited, and would
// grant the vote.
func TestAVoteThatWaitsWaitsForALeaderThatIsHeard(t *testing.T) {
	const heardAfter = testHeartbeat / 3
	for name, command := range map[string]any{"a vote": &raft.RequestVoteRequest{}, "a pre-vote": &raft.RequestPreVoteRequest{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newTestVoter(t, "")
				time.AfterFunc(heardAfter, func() {
					v.heartbeat()
					<-v.steadily
				})
				if _, after := v.passes(command); after != heardAfter+testHeartbeat/2 {
					t.Errorf("delay of the request = %v, want %v", after, heardAfter+testHeartbeat/2)
				}
			})
		})
	}
}

// If a heartbeat were handled beside raft's main goroutine while that handles a TimeoutNow
// or a vote, it would make the candidate a follower again, and take it back to the term
// before.
func TestAHeartbeatIsNotHandledBesideATimeoutNowOrAVote(t *testing.T) {
	for name, command := range map[string]any{
		"a TimeoutNow": &raft.TimeoutNowRequest{RPCHeader: timeoutNowHeader("leader:1", 7)},
		"a vote":       &raft.RequestVoteRequest{Term: 8},
	} {
		t.Run(name, func(t *testing.T) {
			v := newTestVoter(t, "leader:1")
			begun, goOn := make(chan struct{}), make(chan struct{})
			order := make(chan string, 2)
			v.SetHeartbeatHandler(func(raft.RPC) {
				close(begun)
				<-goOn
				order <- "the heartbeat"
			})
			var running sync.WaitGroup
			running.Go(v.heartbeat)
			<-begun
			var asked raft.RPC
			running.Go(func() { v.inner.rpcs <- raft.RPC{Command: command, RespChan: make(chan raft.RPCResponse, 1)} })
			running.Go(func() {
				asked = <-v.Consumer()
				order <- name
			})
			select {
			case first := <-order:
				t.Errorf("raft was given %s before it had handled the heartbeat", first)
			case <-time.After(50 * time.Millisecond):
			}
			close(goOn)
			running.Wait()
			if first := <-order; first != "the heartbeat" {
				t.Errorf("first request handled by raft = %s, want the heartbeat", first)
			}
			// Until raft has answered the request, a heartbeat must go to its main goroutine
			// too.
			v.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat is handled beside the main goroutine") })
			running.Go(v.heartbeat)
			if _, later := (<-v.Consumer()).Command.(*raft.AppendEntriesRequest); !later {
				t.Error("raft was given a request other than the heartbeat")
			}
			running.Wait()
			asked.Respond(nil, nil)
		})
	}
}

// Raft's main goroutine may be busy with a snapshot or the disk when a request for a vote
// comes.
func TestAQuestionThatWaitsForRaftKeepsNoHeartbeatFromBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "leader:1")
		asked := make(chan raft.RPCResponse, 1)
		v.inner.rpcs <- raft.RPC{Command: &raft.RequestPreVoteRequest{}, RespChan: asked}
		synctest.Wait() // until the request waits for raft
		go v.heartbeat()
		synctest.Wait()
		select {
		case <-v.steadily:
		default:
			t.Error("the heartbeat waits behind the request for a vote")
		}
		<-v.Consumer()
	})
}

// Raft assumes that its leader told it to take over, and asks others for votes even if they
// have a leader.
func TestACandidateOnItsOwnDoesNotTakeVotersFromTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newTestVoter(t, "leader:1")
		v.stand()
		v.votes.noteLeaderGone(time.Now().Add(time.Millisecond))
		v.stand() // too early
		<-time.After(testHeartbeat / 2)
		go v.stand()
		if _, told := (<-v.Consumer()).Command.(*raft.TimeoutNowRequest); !told {
			t.Error("raft was not told to stand for election")
		}
		ask := func() bool {
			return v.votes.outgoing(&raft.RequestVoteRequest{Term: 8, LeadershipTransfer: true}).LeadershipTransfer
		}
		if ask() {
			t.Error("request for a vote is marked as a transfer although the leader sent no TimeoutNow")
		}
		v.stand() // once is enough
		v.passes(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{Addr: []byte("leader:1")}})
		if !ask() {
			t.Error("request for a vote is not marked as a transfer although the leader sent a TimeoutNow")
		}
	})
}

// fourSecondTimeouts makes timeouts long enough for a test to see what happens before they
// pass.
func fourSecondTimeouts(config *instanceConfig) {
	config.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = 4*time.Second, 4*time.Second }
}

// timeoutNowHeader returns the header of a TimeoutNow by a leader at address in this term.
func timeoutNowHeader(address string, term uint64) raft.RPCHeader {
	return raft.RPCHeader{ID: withTerm([]byte("leader"), term), Addr: []byte(address)}
}

// Raft 1.7.3 stands for election at the TimeoutNow of a leader that was deposed while the
// message was in flight. Voters must not leave their new leader, which may rely on them, for
// that candidate.
func TestOnlyTheLeaderReleasesVoters(t *testing.T) {
	tests := map[string]struct {
		by    raft.RPCHeader
		term  uint64 // of the vote; this instance is in term 7
		frees bool
	}{
		"the current leader":                            {timeoutNowHeader("leader:1", 7), 8, true},
		"the current leader, in a vote of a later term": {timeoutNowHeader("leader:1", 7), 9, false},
		"a former leader":                               {timeoutNowHeader("before:1", 7), 8, false},
		"the current leader, from an earlier term":      {timeoutNowHeader("leader:1", 5), 8, false},
		"the current leader, of an older build":         {raft.RPCHeader{ID: []byte("leader"), Addr: []byte("leader:1")}, 8, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := newTestVoter(t, "leader:1")
			v.passes(&raft.TimeoutNowRequest{RPCHeader: test.by})
			asked := v.votes.outgoing(&raft.RequestVoteRequest{Term: test.term, LeadershipTransfer: true})
			if asked.LeadershipTransfer != test.frees {
				t.Errorf("vote is marked as a transfer = %v, want %v", asked.LeadershipTransfer, test.frees)
			}
		})
	}
}

func TestALeaderWhoseProcessIsGoneIsReplacedBeforeTheTimeout(t *testing.T) {
	cluster := startCluster(t, 3, fourSecondTimeouts)
	leader := leaderOf(t, cluster)
	register(t, leader, "before")
	began := time.Now()
	leader.stop(t)
	rest := allBut(cluster, leader)
	next := leaderOf(t, rest)
	if took := time.Since(began); took >= 4*time.Second {
		t.Errorf("the replacement took %v, want less than 4s", took)
	}
	register(t, next, "after")
}

func TestALeaderThatRunsStaysLeaderWhenItsConnectionsEnd(t *testing.T) {
	cluster := startCluster(t, 3, fourSecondTimeouts)
	leader := leaderOf(t, cluster)
	term, _ := leader.leads()
	for _, follower := range allBut(cluster, leader) {
		dialled := leader.demux.Stats().Accepted
		follower.stream.Reset()
		until(t, follower.config.ID+" has dialled its leader again", func() bool { return leader.demux.Stats().Accepted > dialled })
		if follower.interceptor.votes.mayStand() {
			t.Errorf("mayStand of %s = true although the leader runs, want false", follower.config.ID)
		}
	}
	register(t, leader, "after")
	if now, leads := leader.leads(); now != term || !leads {
		t.Errorf("the leader leads = %v in term %d, want true in term %d", leads, now, term)
	}
}

func allBut(cluster []*instance, than *instance) []*instance {
	return slices.DeleteFunc(slices.Clone(cluster), func(i *instance) bool { return i == than })
}
