package consensus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func inQuarantineNow(s ports.LocalState) bool { return s.Quarantine != "" }

// wiped stops i and starts it again at its address with nothing of what it had.
func wiped(t *testing.T, i *instance) *instance {
	t.Helper()
	i.stop(t)
	return start(t, instanceConfig{id: i.config.ID, directory: t.TempDir(), address: i.raftAddress()})
}

// refused is how many have not come through the preface of i.
func (i *instance) refused() uint64 { return i.demux.Stats().Rejected[demux.HandshakeFailed] }

// Two of three acknowledged a write. The one of them that forgot it must not elect
// the third, which never had it.
func TestAVoterThatLostItsDataDoesNotElectACandidateThatMissedAWrite(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	a, b, c := cluster[0], cluster[1], cluster[2]
	c.stop(t)
	acknowledged := register(t, a, "acknowledged")
	b = wiped(t, b)
	a.stop(t)
	c = again(t, c, nil)
	before := b.refused()
	until(t, "it was asked for a few votes", func() bool { return b.refused() >= before+5 })
	if state, _ := c.State(); state.Leading || c.raft.State() == raft.Leader {
		t.Fatal("it leads, without what was acknowledged")
	}
	if state, _ := b.State(); !inQuarantineNow(state) || state.Member {
		t.Errorf("the one that forgot: %+v", state)
	}

	a = again(t, a, nil)
	for _, i := range []*instance{a, b, c} {
		i.promotes(t)
	}
	b.eventually(t, "back, as a voter", func(s ports.LocalState) bool {
		self, _ := s.Roster.Find(b.config.ID)
		return s.Quarantine == "" && self.Suffrage == domain.Voter
	})
	for _, i := range []*instance{a, b, c} {
		i.arrives(t, acknowledged.Revision)
	}
	// It counts again.
	c.stop(t)
	until(t, "a write that it takes both of them for", func() bool {
		_, err := leaderOf(t, []*instance{a, b}).Propose(within(t), domain.Register{Node: node(t, "n", "n:1")})
		return err == nil
	})
}

// The leader must not count on one that forgot: the two of them would be a
// majority, whatever the third has promised to another leader.
func TestAVoterThatLostItsDataAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	a, b, c := cluster[0], cluster[1], cluster[2]
	c.stop(t)
	b = wiped(t, b)
	a.eventually(t, "aware that it has no majority", func(s ports.LocalState) bool { return !s.Leading })
	before := b.refused()
	until(t, "it is asked again and again", func() bool { return b.refused() >= before+5 })
	if state, _ := b.State(); state.LeaderID != "" || state.Term != 0 || a.raft.State() == raft.Leader {
		t.Errorf("the one that forgot: %+v", state)
	}
}

func TestAnInstanceOutOfQuarantineIsNoVoterYet(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, b := cluster[0], wiped(t, cluster[1])
	state, _ := leader.State()
	// It has posted an early membership, and looks no more for now.
	b.refreshing.Lock()
	b.state.update(func(s *localState) { s.Roster, s.Member, s.LeaderID = state.Roster, true, leader.config.ID })
	demoted := voter(b)
	demoted.Suffrage = domain.Nonvoter
	mustAdd(t, leader, demoted)
	until(t, "the mark is gone", func() bool {
		_, found, err := b.directory.Kept(quarantineName)
		return !found && err == nil
	})
	state, _ = b.State()
	b.refreshing.Unlock()
	if self, _ := state.Roster.Find(b.config.ID); trusted(state) && self.Suffrage == domain.Voter {
		t.Error("it is out of quarantine, and a voter")
	}
	b.eventually(t, "out of quarantine", trusted)
	b.becomes(t, domain.Nonvoter)
}

func TestAVoterThatLostItsDataComesBackByItself(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader := cluster[0]
	leader.promotes(t)
	change := register(t, leader, "a")
	b := wiped(t, cluster[1])
	b.becomes(t, domain.Voter)
	b.arrives(t, change.Revision)
	b.eventually(t, "out of quarantine", trusted)
	if _, found, err := b.directory.Kept(quarantineName); found || err != nil {
		t.Errorf("the mark is left: %v, %v", found, err)
	}
	// What it is for the log that it has: it goes on with it after a restart.
	b.stop(t)
	b = again(t, b, nil)
	b.eventually(t, "a voter like any other", func(s ports.LocalState) bool { return s.CaughtUp && s.Quarantine == "" })
}

// A log that ends early may say that this instance is a voter, or the only one.
func TestAnInstanceInQuarantineDoesNotLeadWhateverItsLogSays(t *testing.T) {
	var log lines
	alone := startCluster(t, 1, nil)[0]
	alone.stop(t)
	confine(t, alone, "of a test")
	alone = start(t, instanceConfig{
		id: alone.config.ID, directory: alone.config.Directory, address: alone.raftAddress(),
		logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	state, _ := alone.State()
	if !strings.Contains(strings.Join(state.Unready(""), "; "), "because of a test") {
		t.Errorf("it says %q", state.Unready(""))
	}
	if timing := alone.raft.ReloadableConfig(); timing.HeartbeatTimeout != neverTimeout || timing.ElectionTimeout != neverTimeout {
		t.Errorf("it would stand for election after %v", timing.HeartbeatTimeout)
	}
	// Even if it did, it has no vote for itself.
	if err := alone.allowElections(true); err != nil {
		t.Fatal(err)
	}
	until(t, "it has tried", func() bool {
		return strings.Contains(strings.Join(log.since(0), "\n"), "failed to persist vote")
	})
	if state := alone.raft.State(); state == raft.Leader {
		t.Error("it has elected itself")
	}
}

// confine puts an instance that does not run into quarantine.
func confine(t *testing.T, i *instance, reason string) {
	t.Helper()
	directory, err := logstore.ClaimExisting(i.config.Directory)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if err := quarantine(directory, reason); err != nil {
		t.Fatal(err)
	}
}

// The quarantine ends only with the state of the cluster, whatever happens before.
func TestQuarantineOutlivesRestarts(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	change := register(t, leader, "a")
	blank := start(t, instanceConfig{id: "blank", directory: t.TempDir()})
	for range 2 {
		blank.eventually(t, "in quarantine", inQuarantineNow)
		blank.stop(t)
		blank = again(t, blank, nil)
	}
	admit(t, leader, blank)
	blank.arrives(t, change.Revision)
}

func TestBootstrappingDoesNotReplaceTheClusterOfTheDirectory(t *testing.T) {
	leader := startCluster(t, 2, nil)[1]
	leader.stop(t)
	confine(t, leader, "of a test")
	for _, path := range []string{"log.bolt", logstore.SnapshotsFolder} {
		if err := os.RemoveAll(filepath.Join(leader.config.Directory, path)); err != nil {
			t.Fatal(err)
		}
	}
	i := start(t, instanceConfig{id: leader.config.ID, directory: leader.config.Directory, bootstrap: true})
	if state, _ := i.State(); !inQuarantineNow(state) || state.Member || i.raft.LastIndex() != 0 {
		t.Errorf("it has founded a cluster: %+v", state)
	}
}

// It had waited to be added, and is to be the first instead.
func TestAnInstanceThatWaitedMayBeBootstrapped(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir()})
	i.eventually(t, "in quarantine", inQuarantineNow)
	i.stop(t)
	i = start(t, instanceConfig{id: "a", directory: i.config.Directory, bootstrap: true})
	i.eventually(t, "leading, and out of quarantine", func(s ports.LocalState) bool { return s.Leading && s.Quarantine == "" })
}

// Raft keeps connections. One that was made while the other side was a nonvoter
// must not carry anything once that counts.
func TestAConnectionForANonvoterIsNoneForAVoter(t *testing.T) {
	out, in := connected(t)
	nonvoter := true
	conn := nonvoterConn{out, func() bool { return nonvoter }}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	nonvoter = false
	if n, err := conn.Write([]byte("y")); n != 0 || err == nil {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	buffer := make([]byte, 2)
	if n, _ := in.Read(buffer); n != 1 {
		t.Errorf("got %q", buffer[:n])
	}
	if _, err := in.Read(buffer); err == nil {
		t.Error("the connection is left open")
	}
}

// busyOnce is neighbours of whom the leader does not answer the first few questions.
type busyOnce struct {
	neighbours
	refuse *atomic.Int64
}

func (b busyOnce) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	if b.refuse.Add(-1) >= 0 {
		return ports.ReadIndex{}, errors.New("it does not answer")
	}
	return b.neighbours.ReadIndex(ctx, raftAddress)
}

// In a cluster that rests there is no news that would wake who waits for another try.
func TestALeaderThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	var refuse atomic.Int64
	refuse.Store(3)
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), peers: busyOnce{refuse: &refuse}})
	admit(t, leader, joining)
	if refuse.Load() >= 0 {
		t.Error("it has asked fewer times")
	}
}

// A crash, or a newer build, may leave a mark that says nothing.
func TestAMarkCountsWhateverItSays(t *testing.T) {
	directory, err := logstore.Claim(t.TempDir(), logstore.Owner{RaftID: "a", Backend: "bolt"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if reason, err := quarantineReason(directory); reason != "" || err != nil {
		t.Errorf("without a mark: %q, error %v", reason, err)
	}
	for _, mark := range []string{"", "{}", `{"format":2,"why":"x"}`, "\x00\x00"} {
		if err := directory.Keep(quarantineName, []byte(mark)); err != nil {
			t.Fatal(err)
		}
		if reason, err := quarantineReason(directory); reason == "" || err != nil {
			t.Errorf("%q: %q, error %v", mark, reason, err)
		}
	}
}

func TestAVoteInQuarantineIsNotStoredInPart(t *testing.T) {
	for name, trusted := range map[string]bool{"in quarantine": false, "out of it": true} {
		t.Run(name, func(t *testing.T) {
			store := voteGuard{storeOf(t, 1), func() bool { return trusted }}
			if err := store.SetUint64(logstore.VoteTermKey, 7); (err == nil) != trusted {
				t.Errorf("the term: %v", err)
			}
			if err := store.Set(logstore.VoteCandidateKey, []byte("a")); (err == nil) != trusted {
				t.Errorf("the candidate: %v", err)
			}
			if err := store.SetUint64(logstore.TermKey, 7); err != nil {
				t.Errorf("the term in which it is: %v", err)
			}
		})
	}
}

// What a voter acknowledges counts, also while it is about to be one, or none any more.
func TestWhoMayCountIsNoNonvoter(t *testing.T) {
	for name, test := range map[string]struct {
		id       string
		suffrage domain.Suffrage // that it is about to have
		after    bool            // it is a nonvoter when it has that
	}{
		"a voter that is demoted":     {"instance-1", domain.Nonvoter, true},
		"a nonvoter that is promoted": {"new", domain.Voter, false},
	} {
		t.Run(name, func(t *testing.T) {
			through := make(chan struct{})
			var holdsBack atomic.Bool
			cluster := startCluster(t, 3, func(config *instanceConfig) {
				config.timing = patiently
				config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
			})
			letThrough := sync.OnceFunc(func() { close(through) })
			t.Cleanup(letThrough) // before the cluster is stopped
			leader, follower := cluster[0], cluster[1]
			mustAdd(t, leader, nonvoter("new"))
			follower.eventually(t, "it knows the nonvoter", func(s ports.LocalState) bool {
				_, isMember := s.LastCommitted().Roster.Find("new")
				return isMember
			})
			if follower.isNonvoter("new") {
				t.Error("one that does not lead says who is a nonvoter")
			}
			for id, want := range map[string]bool{"new": true, "stranger": false, leader.config.ID: false, follower.config.ID: false} {
				if got := leader.isNonvoter(id); got != want {
					t.Errorf("%s is a nonvoter: %v", id, got)
				}
			}
			changed, _ := leader.roster().Find(test.id)
			changed.Suffrage = test.suffrage
			holdsBack.Store(true)
			done := make(chan error, 1)
			go func() { done <- leader.Add(within(t), changed) }()
			until(t, "raft goes by the new membership", func() bool {
				now, _ := leader.roster().Find(test.id)
				return now == changed
			})
			if leader.isNonvoter(test.id) {
				t.Error("while that is not committed, it is a nonvoter")
			}
			letThrough()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := leader.isNonvoter(test.id); got != test.after {
				t.Errorf("when that is committed, it is a nonvoter: %v", got)
			}
		})
	}
}

// asking is ports.Peers that ask a test for the answer to each question.
type asking struct {
	neighbours
	asked  chan struct{}
	answer chan ports.ReadIndex
}

func (a asking) ReadIndex(ctx context.Context, _ string) (ports.ReadIndex, error) {
	select {
	case a.asked <- struct{}{}:
	case <-ctx.Done():
		return ports.ReadIndex{}, ctx.Err()
	}
	return <-a.answer, nil
}

// It has been made a voter while it asked: the leader may already count on it.
func TestWhoIsAVoterByTheTimeItHasCaughtUpStaysInQuarantine(t *testing.T) {
	questions := asking{asked: make(chan struct{}), answer: make(chan ports.ReadIndex)}
	leader := spoken{rpcs: make(chan raft.RPC)}
	i := start(t, instanceConfig{id: "follower", directory: t.TempDir(), peers: questions, hooks: testHooks{transport: func(inner transport) transport {
		leader.transport = inner
		return leader
	}}})
	index := uint64(0)
	becomes := func(suffrage raft.ServerSuffrage) {
		t.Helper()
		index++
		membership := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
			{ID: "leader", Address: "leader:1", Suffrage: raft.Voter}, {ID: "follower", Address: raft.ServerAddress(i.raftAddress()), Suffrage: suffrage},
		}})
		previous := min(index-1, 1) * spokenTerm
		entry := raft.Log{Index: index, Term: spokenTerm, Type: raft.LogConfiguration, Data: membership}
		if got := leader.append(t, index-1, previous, []*raft.Log{&entry}, index); !got.Success {
			t.Fatalf("it is sent a membership, and answers %+v", got)
		}
		i.eventually(t, "at the membership", func(s ports.LocalState) bool { return s.Applied == index })
	}
	becomes(raft.Nonvoter)
	receive(t, questions.asked, "it does not ask the leader")
	becomes(raft.Voter)
	questions.answer <- ports.ReadIndex{RaftID: "leader", Index: index}
	becomes(raft.Nonvoter)
	receive(t, questions.asked, "it does not ask again once it is a nonvoter")
	if state, _ := i.State(); trusted(state) {
		t.Error("it is out of quarantine, and was a voter")
	}
	questions.answer <- ports.ReadIndex{RaftID: "leader", Index: index}
	i.eventually(t, "out of quarantine", trusted)
}
