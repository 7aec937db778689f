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

// incoming is a transport over which a test is the sender.
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
		"entries of this term":             {&raft.AppendEntriesRequest{Term: 7}, true},
		"entries of a later term":          {&raft.AppendEntriesRequest{Term: 8}, true},
		"entries of an earlier term":       {&raft.AppendEntriesRequest{Term: 6, LeaderCommitIndex: 9}, false},
		"a snapshot of this term":          {&raft.InstallSnapshotRequest{Term: 7}, true},
		"a snapshot of an earlier term":    {&raft.InstallSnapshotRequest{Term: 6}, false},
		"a candidate of this term":         {&raft.RequestVoteRequest{Term: 7}, false},
		"a candidate of a later term":      {&raft.RequestVoteRequest{Term: 8}, false},
		"one who would be a candidate":     {&raft.RequestPreVoteRequest{Term: 8}, false},
		"one who is told to take over now": {&raft.TimeoutNowRequest{}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for way, send := range map[string]func(*incoming, raft.RPC){
				"with the rest":  func(i *incoming, rpc raft.RPC) { i.rpcs <- rpc },
				"as a heartbeat": func(i *incoming, rpc raft.RPC) { i.heartbeat(rpc) },
			} {
				synctest.Test(t, func(t *testing.T) {
					inner := &incoming{rpcs: make(chan raft.RPC)}
					w := newInterceptor(inner, interceptorConfig{evidence: newEvidence(), term: func() uint64 { return 7 }})
					handled := make(chan raft.RPC, 1)
					w.SetHeartbeatHandler(func(rpc raft.RPC) { handled <- rpc })
					before := time.Now()
					time.Sleep(time.Second) // in the bubble's time
					go send(inner, raft.RPC{Command: test.command})
					select {
					case <-w.Consumer():
					case <-handled:
					}
					contact := w.contact.Load()
					if (contact != nil) != test.contact {
						t.Errorf("%s: contact %v, want %v", way, contact, test.contact)
					} else if contact != nil && contact.Sub(before) != time.Second {
						t.Errorf("%s: contact is %v after the message, want one second", way, contact.Sub(before))
					}
					if err := w.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

func TestContactWithAMajorityIsThatOfItsSlowestMember(t *testing.T) {
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
			t.Errorf("%d voters were heard from %v after the beginning, want %v", needed, got.Sub(began), want.Sub(began))
		}
	}
	if got := e.majorityAt(others, 1, 8); !got.IsZero() {
		t.Errorf("in a term in which nobody was: %v", got.Sub(began))
	}
}

// loses waits until i is no longer in touch, and must not be told so too early.
func (i *instance) loses(t *testing.T) {
	t.Helper()
	i.eventually(t, "out of touch", func(s ports.LocalState) bool { return !s.InTouch })
	contact, ever := i.LeaderContact()
	if !ever || contact <= i.config.Timing.ElectionTimeout || contact > i.config.Timing.ElectionTimeout+patience/4 {
		t.Errorf("%s is out of touch, and heard from a leader %v ago (ever: %v); the election timeout is %v",
			i.config.ID, contact, ever, i.config.Timing.ElectionTimeout)
	}
}

// staysLost watches i for as long as a leader would need to be heard from.
func (i *instance) staysLost(t *testing.T) {
	t.Helper()
	last, _ := i.LeaderContact()
	over := last + 2*i.config.Timing.ElectionTimeout
	until(t, i.config.ID+" has heard from nobody for long", func() bool {
		now, ever := i.LeaderContact()
		if state, _ := i.State(); !ever || now < last || state.InTouch {
			t.Fatalf("%s heard from a leader %v ago, and then %v ago (ever: %v), in touch: %v", i.config.ID, last, now, ever, state.InTouch)
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
			lost.loses(t)
			lost.staysLost(t)
			for n, other := range cluster {
				if n != which {
					other.eventually(t, "in touch", inTouch)
				}
			}
			fabric.mend(raft.ServerAddress(lost.raftAddress()))
			lost.eventually(t, "in touch again", inTouch)
			until(t, "the contact is short again", func() bool {
				contact, ever := lost.LeaderContact()
				return ever && contact <= lost.config.Timing.ElectionTimeout
			})
			mustBeAlike(t, cluster...)
		})
	}
}

// Raft lets it lead for as long as its lease is.
func TestALeaderWithoutAMajorityHasNoContact(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.bootstrap {
			config.hooks.settings = loyal
		}
	})
	leader := cluster[0]
	leader.eventually(t, "in touch", inTouch)
	// One of two others is enough.
	fabric.cut(raft.ServerAddress(cluster[1].raftAddress()))
	cluster[1].loses(t)
	until(t, "it hears from the rest", func() bool {
		contact, _ := leader.LeaderContact()
		state, _ := leader.State()
		return contact < leader.config.Timing.ElectionTimeout && state.InTouch
	})
	fabric.cut(raft.ServerAddress(leader.raftAddress()))
	leader.loses(t)
	leader.staysLost(t)
	if leader.raft.State() != raft.Leader {
		t.Error("the leader no longer leads, so the test shows nothing")
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
		"a leader was elected by a majority": {
			localState{LocalState: ports.LocalState{Term: term + 1}, leads: true, elected: at(5)},
			at(5).Equal},
		"a leader that has been heard since": {
			localState{LocalState: ports.LocalState{Term: term}, leads: true, elected: at(-1000)},
			at(-999).Before},
		"what it was in earlier terms is nothing to a leader": {
			localState{LocalState: ports.LocalState{Term: term + 1}, leads: true, elected: at(5), led: at(9)},
			at(5).Equal},
		"a follower that led before, and has heard from nobody": {
			localState{led: at(5)},
			at(5).Equal},
		"a follower that has heard from nobody": {
			localState{},
			time.Time.IsZero},
	} {
		if got := i.leaderContact(&test.state); !test.want(got) {
			t.Errorf("%s: %v after the beginning", name, got.Sub(began))
		}
	}
	heard := at(7)
	i.interceptor.contact.Store(&heard)
	for led, want := range map[int]int{6: 7, 8: 8} {
		if got := i.leaderContact(&localState{led: at(led)}); !got.Equal(at(want)) {
			t.Errorf("it led %ds and heard %ds after the beginning: %v", led, 7, got.Sub(began))
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
		i.loses(t)
		// Far more than the time until it is looked after.
		if contact, _ := i.LeaderContact(); contact > i.config.Timing.ElectionTimeout*19/10 {
			t.Errorf("%s is told only after %v", i.config.ID, contact)
		}
	}
}

// Candidates are no leaders, however many of them are heard from.
func TestMessagesOfCandidatesAreNoContact(t *testing.T) {
	t.Parallel()
	fabric := newNetwork()
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return deaf{&faulty{inner, fabric}, fabric} }
	})
	leader, follower := cluster[0], cluster[1]
	fabric.cut(everybody)
	follower.loses(t)
	leader.loses(t)
	follower.staysLost(t)
	asked := fabric.asked()
	until(t, "votes are asked for", func() bool { return fabric.asked() > asked+4 })
	follower.staysLost(t)
	fabric.mend(everybody)
	for _, i := range cluster {
		i.eventually(t, "in touch again", inTouch)
	}
}

// everybody stands for all, in what is cut.
const everybody = raft.ServerAddress("everybody")

// deaf is a transport on which, while everybody is cut off, votes are asked for
// and not answered, and nothing else gets through.
type deaf struct {
	*faulty
	network *network
}

func (d deaf) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := d.network.passes(everybody, to); err != nil {
		return err
	}
	return d.faulty.AppendEntries(id, to, args, resp)
}

func (d deaf) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	err := d.faulty.RequestPreVote(id, to, args, resp)
	return errors.Join(err, d.network.unanswered())
}

func (d deaf) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	err := d.faulty.RequestVote(id, to, args, resp)
	return errors.Join(err, d.network.unanswered())
}

// unanswered counts votes that were asked for while everybody is cut off.
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

// unheard is a transport whose entries and heartbeats for one instance wait.
type unheard struct {
	transport
	by    raft.ServerID
	until <-chan struct{}
}

func (u unheard) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (u unheard) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if id == u.by {
		<-u.until
	}
	return u.transport.AppendEntries(id, to, args, resp)
}

// Who has handed over is as fresh as it was, until it hears from its successor:
// streams that it serves as a follower go on.
func TestALeaderThatHandsOverKeepsContact(t *testing.T) {
	heard := make(chan struct{})
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = func(timing *Timing) { timing.ElectionTimeout = patience / 2 }
		if !config.bootstrap {
			config.hooks.transport = func(inner transport) transport { return unheard{inner, "instance-0", heard} }
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
	until(t, "what it knows was posted a few times", func() bool {
		state, _ := old.State()
		contact, ever := old.LeaderContact()
		if state.Leading || state.LeaderID == old.config.ID || !state.InTouch || !ever || contact < last {
			t.Fatalf("leading %v, the leader is %q, in touch: %v; it heard from a majority %v ago (ever: %v), and %v ago before",
				state.Leading, state.LeaderID, state.InTouch, contact, ever, last)
		}
		last = contact
		return contact > 4*reconcileInterval
	})
	letThrough()
	until(t, "it hears from its successor", func() bool {
		contact, _ := old.LeaderContact()
		return contact < last
	})
}

func TestALoneVoterAlwaysHasContact(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading, in touch", func(s ports.LocalState) bool { return s.Leading && s.InTouch })
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
	admit(t, leader, newcomer)
	newcomer.eventually(t, "in touch", inTouch)
	if _, ever := newcomer.LeaderContact(); !ever {
		t.Error("a newcomer is in touch, but has no contact")
	}
}
