package consensus

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// incoming is a transport whose incoming requests a test makes up.
type incoming struct {
	transport
	rpcs      chan raft.RPC
	heartbeat func(raft.RPC)
}

func (i *incoming) Consumer() <-chan raft.RPC                     { return i.rpcs }
func (i *incoming) SetHeartbeatHandler(handle func(rpc raft.RPC)) { i.heartbeat = handle }
func (i *incoming) Close() error                                  { return nil }

func TestOnlyALeaderOfThisTermIsAContact(t *testing.T) {
	tests := map[string]struct {
		command any
		contact bool
	}{
		"entries of this term":          {&raft.AppendEntriesRequest{Term: 7}, true},
		"entries of a later term":       {&raft.AppendEntriesRequest{Term: 8}, true},
		"entries of an earlier term":    {&raft.AppendEntriesRequest{Term: 6, LeaderCommitIndex: 9}, false},
		"a snapshot of this term":       {&raft.InstallSnapshotRequest{Term: 7}, true},
		"a snapshot of an earlier term": {&raft.InstallSnapshotRequest{Term: 6}, false},
		"a candidate of this term":      {&raft.RequestVoteRequest{Term: 7}, false},
		"a candidate of a later term":   {&raft.RequestVoteRequest{Term: 8}, false},
		"a pre-candidate":               {&raft.RequestPreVoteRequest{Term: 8}, false},
		"a request to take over now":    {&raft.TimeoutNowRequest{}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for way, send := range map[string]func(*incoming, raft.RPC){
				"as an ordinary request": func(i *incoming, rpc raft.RPC) { i.rpcs <- rpc },
				"as a heartbeat":         func(i *incoming, rpc raft.RPC) { i.heartbeat(rpc) },
			} {
				synctest.Test(t, func(t *testing.T) {
					inner := &incoming{rpcs: make(chan raft.RPC)}
					w := newInterceptor(inner, interceptorConfig{evidence: newEvidence(), term: func() uint64 { return 7 }})
					handled := make(chan raft.RPC, 1)
					w.SetHeartbeatHandler(func(rpc raft.RPC) { handled <- rpc })
					before := time.Now()
					time.Sleep(time.Second) // in the bubble's fake time
					go send(inner, raft.RPC{Command: test.command})
					select {
					case <-w.Consumer():
					case <-handled:
					}
					contact := w.contact.Load()
					if (contact != nil) != test.contact {
						t.Errorf("%s: contact = %v, want contact: %v", way, contact, test.contact)
					} else if contact != nil && contact.Sub(before) != time.Second {
						t.Errorf("%s: contact is %v after the message, want 1s", way, contact.Sub(before))
					}
					if err := w.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

func TestContactWithAMajorityIsThatWithItsSlowestMember(t *testing.T) {
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	e := newEvidence()
	e.acknowledged("b", 7, 1, at(3))
	e.acknowledged("c", 7, 1, at(1))
	e.acknowledged("d", 7, 1, at(2))
	e.acknowledged("e", 6, 1, at(9))
	e.acknowledged("stranger", 7, 1, at(8))
	others := []raft.ServerID{"b", "c", "d", "e"}
	for needed, want := range map[int]time.Time{1: at(3), 2: at(2), 3: at(1), 4: {}} {
		if got := e.majorityAt(others, needed, 7); !got.Equal(want) {
			t.Errorf("time of contact with %d voters = %v after the start, want %v", needed, got.Sub(began), want.Sub(began))
		}
	}
	if got := e.majorityAt(others, 1, 8); !got.IsZero() {
		t.Errorf("time of contact in a term without contact = %v after the start, want none", got.Sub(began))
	}
}

// mustLoseContact waits until i is out of touch, which must not happen before its election
// timeout has passed.
func (i *instance) mustLoseContact(t *testing.T) {
	t.Helper()
	i.eventually(t, "out of touch", func(s ports.LocalState) bool { return !s.InTouch })
	contact, ever := i.LeaderContact()
	if !ever || contact <= i.config.Timing.ElectionTimeout || contact > i.config.Timing.ElectionTimeout+patience/4 {
		t.Errorf("%s is out of touch with a last contact %v ago (ever: %v), want just over the election timeout, %v",
			i.config.ID, contact, ever, i.config.Timing.ElectionTimeout)
	}
}

// mustStayOutOfTouch watches i for two election timeouts, in which a leader would have been
// heard from.
func (i *instance) mustStayOutOfTouch(t *testing.T) {
	t.Helper()
	last, _ := i.LeaderContact()
	over := last + 2*i.config.Timing.ElectionTimeout
	until(t, i.config.ID+" has had no contact for two election timeouts", func() bool {
		now, ever := i.LeaderContact()
		if state, _ := i.State(); !ever || now < last || state.InTouch {
			t.Fatalf("%s: last contact was %v ago, then %v ago (ever: %v), in touch = %v, want no new contact", i.config.ID, last, now, ever, state.InTouch)
		}
		last = now
		return now > over
	})
}

func inTouch(s ports.LocalState) bool { return s.InTouch }

func TestAnInstanceThatIsCutOffHasNoContactUntilItIsBack(t *testing.T) {
	t.Parallel()
	for name, which := range map[string]int{"a leader": 0, "a follower": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fabric := newNetwork()
			cluster := startCluster(t, 3, func(config *instanceConfig) {
				config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
				config.timing = func(timing *Timing) { timing.ElectionTimeout *= 2 }
			})
			for _, i := range cluster {
				i.eventually(t, "in touch", inTouch)
			}
			lost := cluster[which]
			fabric.cut(raft.ServerAddress(lost.raftAddress()))
			lost.mustLoseContact(t)
			lost.mustStayOutOfTouch(t)
			for n, other := range cluster {
				if n != which {
					other.eventually(t, "in touch", inTouch)
				}
			}
			fabric.mend(raft.ServerAddress(lost.raftAddress()))
			lost.eventually(t, "in touch again", inTouch)
			until(t, "the last contact is recent again", func() bool {
				contact, ever := lost.LeaderContact()
				return ever && contact <= lost.config.Timing.ElectionTimeout
			})
			mustBeAlike(t, cluster...)
		})
	}
}

// Raft lets such a leader lead until its lease ends.
func TestALeaderWithoutAMajorityHasNoContact(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.bootstrap {
			config.hooks.settings = neverDeposed
		}
	})
	leader := cluster[0]
	leader.eventually(t, "in touch", inTouch)
	// One of the two followers is enough for a majority.
	fabric.cut(raft.ServerAddress(cluster[1].raftAddress()))
	cluster[1].mustLoseContact(t)
	until(t, "the leader hears from the other follower", func() bool {
		contact, _ := leader.LeaderContact()
		state, _ := leader.State()
		return contact < leader.config.Timing.ElectionTimeout && state.InTouch
	})
	fabric.cut(raft.ServerAddress(leader.raftAddress()))
	leader.mustLoseContact(t)
	leader.mustStayOutOfTouch(t)
	if leader.raft.State() != raft.Leader {
		t.Error("the leader was deposed, so the test shows nothing")
	}
}

func TestTheTimeOfTheLastContactWithALeader(t *testing.T) {
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	i := startCluster(t, 2, nil)[0]
	term, _ := i.leads()
	for name, test := range map[string]struct {
		state localState
		want  func(time.Time) bool
	}{
		"a leader that a majority has just elected": {
			localState{LocalState: ports.LocalState{Term: term + 1}, leads: true, elected: at(5)},
			at(5).Equal},
		"a leader that voters have acknowledged since": {
			localState{LocalState: ports.LocalState{Term: term}, leads: true, elected: at(-1000)},
			at(-999).Before},
		"a leader that was acknowledged in earlier terms only": {
			localState{LocalState: ports.LocalState{Term: term + 1}, leads: true, elected: at(5), led: at(9)},
			at(5).Equal},
		"a follower that led before, and has heard from no leader": {
			localState{led: at(5)},
			at(5).Equal},
		"a follower that has heard from no leader": {
			localState{},
			time.Time.IsZero},
	} {
		if got := i.leaderContact(&test.state); !test.want(got) {
			t.Errorf("%s: last contact = %v after the start", name, got.Sub(began))
		}
	}
	heard := at(7)
	i.interceptor.contact.Store(&heard)
	for led, want := range map[int]int{6: 7, 8: 8} {
		if got := i.leaderContact(&localState{led: at(led)}); !got.Equal(at(want)) {
			t.Errorf("led until %ds, heard a leader at %ds: last contact = %v after the start, want the later one", led, 7, got.Sub(began))
		}
	}
}

func TestContactEndsWithTheElectionTimeout(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		config.timing = func(timing *Timing) { timing.ElectionTimeout = 2 * time.Second }
	})
	for _, i := range cluster {
		i.eventually(t, "in touch", inTouch)
	}
	fabric.cut(raft.ServerAddress(cluster[1].raftAddress()))
	for _, i := range cluster {
		i.mustLoseContact(t)
		// Twice the election timeout is far more than the instance needs to notice.
		if contact, _ := i.LeaderContact(); contact > i.config.Timing.ElectionTimeout*19/10 {
			t.Errorf("%s noticed the loss of contact only after %v", i.config.ID, contact)
		}
	}
}

// Messages of candidates are no contact with a leader, however many come.
func TestMessagesOfCandidatesAreNoContact(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return onlyVoteRequests{&faulty{inner, fabric}, fabric} }
	})
	leader, follower := cluster[0], cluster[1]
	fabric.cut(everybody)
	follower.mustLoseContact(t)
	leader.mustLoseContact(t)
	follower.mustStayOutOfTouch(t)
	asked := fabric.asked()
	until(t, "candidates ask for votes", func() bool { return fabric.asked() > asked+4 })
	follower.mustStayOutOfTouch(t)
	fabric.mend(everybody)
	for _, i := range cluster {
		i.eventually(t, "in touch again", inTouch)
	}
}

// everybody stands for all instances in the addresses that are cut off.
const everybody = raft.ServerAddress("everybody")

// onlyVoteRequests is a transport that, while everybody is cut off, delivers requests for
// votes without an answer, and nothing else.
type onlyVoteRequests struct {
	*faulty
	network *network
}

func (d onlyVoteRequests) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := d.network.passes(everybody, to); err != nil {
		return err
	}
	return d.faulty.AppendEntries(id, to, args, resp)
}

func (d onlyVoteRequests) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	err := d.faulty.RequestPreVote(id, to, args, resp)
	return errors.Join(err, d.network.unanswered())
}

func (d onlyVoteRequests) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	err := d.faulty.RequestVote(id, to, args, resp)
	return errors.Join(err, d.network.unanswered())
}

// unanswered counts a request for a vote, and returns an error, while everybody is cut off.
func (n *network) unanswered() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.gone[everybody] {
		return nil
	}
	n.votes++
	return errCut
}

func (n *network) asked() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.votes
}

// blockedAppends is a transport whose AppendEntries to one instance wait.
type blockedAppends struct {
	transport
	by    raft.ServerID
	until <-chan struct{}
}

func (u blockedAppends) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (u blockedAppends) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if id == u.by {
		<-u.until
	}
	return u.transport.AppendEntries(id, to, args, resp)
}

// An instance that has handed over leadership keeps its last contact until it hears from its
// successor, so that streams which it serves as a follower go on.
func TestALeaderThatHandsOverKeepsContact(t *testing.T) {
	heard := make(chan struct{})
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = func(timing *Timing) { timing.ElectionTimeout = patience / 2 }
		if !config.bootstrap {
			config.hooks.transport = func(inner transport) transport { return blockedAppends{inner, "instance-0", heard} }
		}
	})
	letThrough := sync.OnceFunc(func() { close(heard) })
	t.Cleanup(letThrough) // before the cluster is stopped
	old := cluster[0]
	old.eventually(t, "in touch", inTouch)
	if err := old.HandOver(within(t), ""); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, cluster[1:])
	last := time.Duration(0)
	until(t, "the state was posted several times since the last contact", func() bool {
		state, _ := old.State()
		contact, ever := old.LeaderContact()
		if state.Leading || state.LeaderID == old.config.ID || !state.InTouch || !ever || contact < last {
			t.Fatalf("leading = %v, leader %q, in touch %v, last contact %v ago (ever: %v), after %v ago, want a follower in touch, without new contact",
				state.Leading, state.LeaderID, state.InTouch, contact, ever, last)
		}
		last = contact
		return contact > 4*reconcileInterval
	})
	letThrough()
	until(t, "the old leader hears from its successor", func() bool {
		contact, _ := old.LeaderContact()
		return contact < last
	})
}

func TestALoneVoterAlwaysHasContact(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading and in touch", func(s ports.LocalState) bool { return s.Leading && s.InTouch })
	if contact, ever := i.LeaderContact(); !ever || contact > time.Second {
		t.Errorf("contact of a lone voter = %v ago (ever: %v), want at most 1s", contact, ever)
	}
}

func TestANewcomerHasHeardFromNobody(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	newcomer := start(t, instanceConfig{id: "newcomer", directory: t.TempDir()})
	if contact, ever := newcomer.LeaderContact(); ever {
		t.Errorf("contact of a newcomer = %v ago, want none", contact)
	}
	if state, _ := newcomer.State(); state.InTouch {
		t.Error("a newcomer without contact is in touch")
	}
	addVoter(t, leader, newcomer)
	newcomer.eventually(t, "in touch", inTouch)
	if _, ever := newcomer.LeaderContact(); !ever {
		t.Error("a newcomer is in touch, but has no contact")
	}
}
