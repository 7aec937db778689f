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

// elector is an interceptor whose raft is the test.
type elector struct {
	*interceptor
	inner    *incoming
	leader   raft.ServerAddress // empty: raft follows nobody
	steadily chan raft.RPC      // heartbeats that raft handles beside its main goroutine
	trouble  error              // with the disk
}

const testHeartbeat = 300 * time.Millisecond

func newElector(t *testing.T, leader raft.ServerAddress) *elector {
	t.Helper()
	v := &elector{inner: &incoming{rpcs: make(chan raft.RPC)}, leader: leader, steadily: make(chan raft.RPC, 1)}
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

func (v *elector) heartbeat() {
	v.inner.heartbeat(raft.RPC{Command: &raft.AppendEntriesRequest{Term: 7}})
}

// passes gives what raft is asked, and after how long.
func (v *elector) passes(command any) (asked any, after time.Duration) {
	began := time.Now()
	go func() { v.inner.rpcs <- raft.RPC{Command: command, RespChan: make(chan raft.RPCResponse, 1)} }()
	return (<-v.Consumer()).Command, time.Since(began)
}

func TestWhenAVoterIsFree(t *testing.T) {
	const half = testHeartbeat / 2
	tests := map[string]struct {
		silence time.Duration // since its leader was heard
		gone    bool          // and nobody is there any more
		free    bool
	}{
		"who heard from its leader":                         {half, false, false},
		"nor shortly before a heartbeat timeout is over":    {testHeartbeat - time.Millisecond, false, false},
		"who heard from no leader for a heartbeat timeout":  {testHeartbeat, false, true},
		"who heard from a leader, of which nothing is left": {half - time.Millisecond, true, false},
		"and half a heartbeat timeout later":                {half, true, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newElector(t, "leader:1")
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
					t.Errorf("asked whether it would vote, its leader is no reason to refuse: %v, want %v", free, test.free)
				}
				asked, _ = v.passes(&raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{Addr: []byte("candidate:1")}})
				vote := asked.(*raft.RequestVoteRequest)
				if vote.LeadershipTransfer != test.free {
					t.Errorf("asked for its vote, its leader is no reason to refuse: %v, want %v", vote.LeadershipTransfer, test.free)
				}
				if string(vote.Addr) != "candidate:1" {
					t.Errorf("vote for %s, want candidate:1", vote.Addr)
				}
			})
		})
	}
}

// Raft would stand for election, wait for the disk with its own vote, and leave the leader's
// heartbeats unanswered.
func TestAnInstanceThatCannotStoreItsVoteDoesNotTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "leader:1")
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
			t.Errorf("raft is told: %+v", rpc.Command)
		}
		if asked, _ := v.passes(&raft.RequestVoteRequest{}); asked == nil {
			t.Error("the second request for a vote was not passed on")
		}
	})
}

// Raft forgets at a restart whom it heard from, and that one may still be sure of its vote.
func TestAnInstanceThatHasJustStartedIsAskedForNoVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "")
		if _, after := v.passes(&raft.RequestVoteRequest{LeadershipTransfer: true}); after != 0 {
			t.Errorf("delay of a vote for the chosen successor = %v, want none", after)
		}
		if _, after := v.passes(&raft.RequestPreVoteRequest{}); after != testHeartbeat/2 {
			t.Errorf("delay of a prevote = %v, want %v", after, testHeartbeat/2)
		}
		if _, after := v.passes(&raft.RequestVoteRequest{}); after != 0 {
			t.Errorf("after half a heartbeat timeout it still waits %v", after)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "")
		if _, after := v.passes(&raft.RequestVoteRequest{}); after != testHeartbeat/2 {
			t.Errorf("delay of a vote = %v, want %v", after, testHeartbeat/2)
		}
	})
}

func TestAVoteThatIsHeldBackEndsWithTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "")
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
		v := newElector(t, "leader:1")
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

// Two that come at the same time are noted in any order.
func TestALeaderThatIsHeardCountsFromTheLatestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "leader:1")
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

// Beside a vote that raft is deciding on, a heartbeat could be acknowledged by who has
// just voted against its sender.
func TestAHeartbeatThatMeetsAVoteIsLeftToRaftsMainGoroutine(t *testing.T) {
	tests := map[string]struct {
		leader  raft.ServerAddress
		voting  bool
		silence time.Duration
		beside  bool
	}{
		"while raft decides on a vote":                   {"leader:1", true, 0, false},
		"while it may vote any moment, without a leader": {"", false, testHeartbeat / 2, false},
		"of the leader that it has":                      {"leader:1", false, testHeartbeat / 2, true},
		"too early for a vote":                           {"", false, testHeartbeat/2 - time.Millisecond, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newElector(t, test.leader)
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
						t.Error("the heartbeat waits for the main goroutine")
					}
				case <-v.steadily:
					if !test.beside {
						t.Error("the heartbeat is handled beside the main goroutine")
					}
				}
				vote.Respond(&raft.RequestVoteResponse{}, nil)
				synctest.Wait()
				v.heartbeat()
				<-v.steadily // the next one is no concern of a vote
			})
		})
	}
}

func TestAHintHoldsOnlyUntilTheLeaderIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "leader:1")
		before := time.Now()
		<-time.After(time.Millisecond)
		v.heartbeat()
		<-v.steadily
		if v.votes.noteLeaderGone(before) || v.votes.mayStand() {
			t.Error("a leader that was heard since is taken for gone")
		}
		<-time.After(time.Millisecond)
		if !v.votes.noteLeaderGone(time.Now()) || !v.votes.mayStand() {
			t.Error("a leader that is gone is not taken for gone")
		}
		v.heartbeat()
		<-v.steadily
		if v.votes.mayStand() {
			t.Error("the instance would stand although its leader was heard again")
		}
		v.votes.answered(&raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{Granted: true})
		v.heartbeat()
		<-v.steadily
		<-time.After(time.Millisecond)
		if !v.votes.noteLeaderGone(time.Now()) || !v.votes.mayStand() {
			t.Error("a leader that was heard before keeps the instance from standing")
		}
	})
}

func TestAnInstanceThatWouldVoteForAnotherDoesNotStand(t *testing.T) {
	for name, test := range map[string]struct{ granted, stands bool }{
		"it would": {true, false},
		"it would not, because the other one's log is behind": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newElector(t, "leader:1")
				<-time.After(testHeartbeat / 2)
				v.votes.noteLeaderGone(time.Now())
				answer := make(chan raft.RPCResponse, 1)
				go func() { v.inner.rpcs <- raft.RPC{Command: &raft.RequestPreVoteRequest{}, RespChan: answer} }()
				rpc := <-v.Consumer()
				rpc.Respond(&raft.RequestPreVoteResponse{Granted: test.granted}, nil)
				if vote := (<-answer).Response.(*raft.RequestPreVoteResponse); vote.Granted != test.granted {
					t.Errorf("the other one is told %v", vote.Granted)
				}
				if v.votes.mayStand() != test.stands {
					t.Errorf("mayStand = %v, want %v", !test.stands, test.stands)
				}
			})
		})
	}
}

// Raft has no leader yet that was heard while the vote waited, and would give it.
func TestAVoteThatWaitsWaitsForALeaderThatIsHeard(t *testing.T) {
	const heardAfter = testHeartbeat / 3
	for name, command := range map[string]any{"a vote": &raft.RequestVoteRequest{}, "whether it would vote": &raft.RequestPreVoteRequest{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newElector(t, "")
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

// A heartbeat that met the word to take over, or a vote, beside raft's main goroutine would make
// a follower of it again, and have it go back to the term before.
func TestAHeartbeatMeetsNothingThatEndsAFollowersTerm(t *testing.T) {
	for name, command := range map[string]any{
		"the word to take over": &raft.TimeoutNowRequest{RPCHeader: word("leader:1", 7)},
		"a vote":                &raft.RequestVoteRequest{Term: 8},
	} {
		t.Run(name, func(t *testing.T) {
			v := newElector(t, "leader:1")
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
				t.Errorf("raft is given %s, and has not handled the heartbeat", first)
			case <-time.After(50 * time.Millisecond):
			}
			close(goOn)
			running.Wait()
			if first := <-order; first != "the heartbeat" {
				t.Errorf("raft handles %s first", first)
			}
			// Until raft has answered, it has to decide on both one after the other.
			v.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat is handled beside it") })
			running.Go(v.heartbeat)
			if _, later := (<-v.Consumer()).Command.(*raft.AppendEntriesRequest); !later {
				t.Error("raft is given something else")
			}
			running.Wait()
			asked.Respond(nil, nil)
		})
	}
}

// Raft's main goroutine may be busy with a snapshot, or a disk, when another one asks.
func TestAQuestionThatWaitsForRaftKeepsNoHeartbeatFromBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "leader:1")
		asked := make(chan raft.RPCResponse, 1)
		v.inner.rpcs <- raft.RPC{Command: &raft.RequestPreVoteRequest{}, RespChan: asked}
		synctest.Wait() // until it waits for raft
		go v.heartbeat()
		synctest.Wait()
		select {
		case <-v.steadily:
		default:
			t.Error("the heartbeat waits")
		}
		<-v.Consumer()
	})
}

// Raft takes for granted that its leader told it to, and has others vote for it though
// they may have a leader.
func TestACandidateOnItsOwnDoesNotTakeVotersFromTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newElector(t, "leader:1")
		v.stand()
		v.votes.noteLeaderGone(time.Now().Add(time.Millisecond))
		v.stand() // too early
		<-time.After(testHeartbeat / 2)
		go v.stand()
		if _, told := (<-v.Consumer()).Command.(*raft.TimeoutNowRequest); !told {
			t.Error("raft is not told to stand for election")
		}
		ask := func() bool {
			return v.votes.outgoing(&raft.RequestVoteRequest{Term: 8, LeadershipTransfer: true}).LeadershipTransfer
		}
		if ask() {
			t.Error("the candidate asks for votes as if its leader had told it to")
		}
		v.stand() // once is enough
		v.passes(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{Addr: []byte("leader:1")}})
		if !ask() {
			t.Error("its leader has told it to, and nobody hears of that")
		}
	})
}

// patient is long enough that a test sees what comes earlier.
func patient(config *instanceConfig) {
	config.timing = func(timing *Timing) { timing.HeartbeatTimeout, timing.ElectionTimeout = 4*time.Second, 4*time.Second }
}

// word is what heads the word of a leader that an instance is to take over.
func word(address string, term uint64) raft.RPCHeader {
	return raft.RPCHeader{ID: withTerm([]byte("leader"), term), Addr: []byte(address)}
}

// Raft 1.7.3 stands for election at the word of a leader that was deposed while that was on
// its way, and voters must not leave their new leader, which may be sure of them, for it.
func TestOnlyTheLeaderReleasesVoters(t *testing.T) {
	tests := map[string]struct {
		by    raft.RPCHeader
		term  uint64 // of the vote; this instance is in term 7
		frees bool
	}{
		"its leader":                            {word("leader:1", 7), 8, true},
		"its leader, and then there is another": {word("leader:1", 7), 9, false},
		"one who led before":                    {word("before:1", 7), 8, false},
		"its leader, when it led before":        {word("leader:1", 5), 8, false},
		"its leader, of an earlier build":       {raft.RPCHeader{ID: []byte("leader"), Addr: []byte("leader:1")}, 8, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := newElector(t, "leader:1")
			v.passes(&raft.TimeoutNowRequest{RPCHeader: test.by})
			asked := v.votes.outgoing(&raft.RequestVoteRequest{Term: test.term, LeadershipTransfer: true})
			if asked.LeadershipTransfer != test.frees {
				t.Errorf("voters are free: %v, want %v", asked.LeadershipTransfer, test.frees)
			}
		})
	}
}

func TestALeaderWhoseProcessIsGoneIsReplacedBeforeItsTime(t *testing.T) {
	cluster := startCluster(t, 3, patient)
	leader := leaderOf(t, cluster)
	register(t, leader, "before")
	began := time.Now()
	leader.stop(t)
	rest := others(cluster, leader)
	next := leaderOf(t, rest)
	if took := time.Since(began); took >= 4*time.Second {
		t.Errorf("the replacement took %v, want less than 4s", took)
	}
	register(t, next, "after")
}

func TestALeaderThatRunsStaysLeaderWhenItsConnectionsEnd(t *testing.T) {
	cluster := startCluster(t, 3, patient)
	leader := leaderOf(t, cluster)
	term, _ := leader.leads()
	for _, follower := range others(cluster, leader) {
		dialled := leader.demux.Stats().Accepted
		follower.stream.reset()
		until(t, follower.config.ID+" has looked for its leader", func() bool { return leader.demux.Stats().Accepted > dialled })
		if follower.interceptor.votes.mayStand() {
			t.Errorf("%s takes the leader for gone", follower.config.ID)
		}
	}
	register(t, leader, "after")
	if now, leads := leader.leads(); now != term || !leads {
		t.Errorf("the leader leads = %v in term %d, want true in term %d", leads, now, term)
	}
}

func others(cluster []*instance, than *instance) []*instance {
	return slices.DeleteFunc(slices.Clone(cluster), func(i *instance) bool { return i == than })
}
