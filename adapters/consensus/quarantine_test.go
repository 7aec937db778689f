package consensus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func inQuarantineNow(s ports.LocalState) bool { return s.Quarantine != "" }

// restartWiped stops i, and starts it again at its address without its data.
func restartWiped(t *testing.T, i *instance) *instance {
	t.Helper()
	i.stop(t)
	return start(t, instanceConfig{id: i.config.ID, directory: t.TempDir(), address: i.raftAddress()})
}

// refused returns how many connections i has refused in its preface.
func (i *instance) refused() uint64 { return i.demux.Stats().Rejected[demux.HandshakeFailed] }

// Two of three voters have acknowledged a write. The one of them that lost its data must not
// elect the third, which never had the write.
func TestAVoterThatLostItsDataDoesNotElectACandidateThatMissedAWrite(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	a, b, c := cluster[0], cluster[1], cluster[2]
	c.stop(t)
	acknowledged := register(t, a, "acknowledged")
	b = restartWiped(t, b)
	a.stop(t)
	c = restart(t, c, nil)
	before := b.refused()
	until(t, "the wiped voter was asked for votes a few times", func() bool { return b.refused() >= before+5 })
	if state, _ := c.State(); state.Leading || c.raft.State() == raft.Leader {
		t.Fatal("an instance without the acknowledged write leads")
	}
	if state, _ := b.State(); !inQuarantineNow(state) || state.Member {
		t.Errorf("state of the wiped voter = %+v, want it in quarantine and without contact", state)
	}

	a = restart(t, a, nil)
	for _, i := range []*instance{a, b, c} {
		i.runPromotions(t)
	}
	b.eventually(t, "a voter again", func(s ports.LocalState) bool {
		self, _ := s.Roster.Find(b.config.ID)
		return s.Quarantine == "" && self.Suffrage == domain.Voter
	})
	for _, i := range []*instance{a, b, c} {
		i.waitForRevision(t, acknowledged.Revision)
	}
	// The voter counts again.
	c.stop(t)
	until(t, "a write that needs both of them is committed", func() bool {
		_, err := leaderOf(t, []*instance{a, b}).Propose(within(t), domain.Register{Node: node(t, "n", "n:1")})
		return err == nil
	})
}

// The leader must not count the voter that lost its data: the two of them would be a
// majority, whatever the third has promised to another leader.
func TestAVoterThatLostItsDataAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 3, nil)
	a, b, c := cluster[0], cluster[1], cluster[2]
	c.stop(t)
	b = restartWiped(t, b)
	a.eventually(t, "aware that it has no majority", func(s ports.LocalState) bool { return !s.Leading })
	before := b.refused()
	until(t, "the wiped voter was asked several times", func() bool { return b.refused() >= before+5 })
	if state, _ := b.State(); state.LeaderID != "" || state.Term != 0 || a.raft.State() == raft.Leader {
		t.Errorf("state of the wiped voter = %+v, want it in quarantine and without contact", state)
	}
}

func TestAnInstanceOutOfQuarantineIsNoVoterYet(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, b := cluster[0], restartWiped(t, cluster[1])
	state, _ := leader.State()
	// The instance has published an early membership, and can't refresh it for now.
	b.refreshing.Lock()
	b.state.update(func(s *localState) { s.Roster, s.Member, s.LeaderID = state.Roster, true, leader.config.ID })
	demoted := voter(b)
	demoted.Suffrage = domain.Nonvoter
	mustAdd(t, leader, demoted)
	until(t, "the mark of the quarantine is gone", func() bool {
		_, found, err := b.directory.Kept(quarantineName)
		return !found && err == nil
	})
	state, _ = b.State()
	b.refreshing.Unlock()
	if self, _ := state.Roster.Find(b.config.ID); trusted(state) && self.Suffrage == domain.Voter {
		t.Error("the instance is out of quarantine and a voter, want a nonvoter")
	}
	b.eventually(t, "out of quarantine", trusted)
	b.mustBecome(t, domain.Nonvoter)
}

func TestAVoterThatLostItsDataComesBackByItself(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader := cluster[0]
	leader.runPromotions(t)
	change := register(t, leader, "a")
	b := restartWiped(t, cluster[1])
	b.mustBecome(t, domain.Voter)
	b.waitForRevision(t, change.Revision)
	b.eventually(t, "out of quarantine", trusted)
	if _, found, err := b.directory.Kept(quarantineName); found || err != nil {
		t.Errorf("mark of the quarantine found = %v, %v, want none", found, err)
	}
	// The instance has a log again, so after a restart it goes on with that, without
	// quarantine.
	b.stop(t)
	b = restart(t, b, nil)
	b.eventually(t, "a voter like any other", func(s ports.LocalState) bool { return s.CaughtUp && s.Quarantine == "" })
}

// A log that lacks its end may say that this instance is a voter, or even the only one.
func TestAnInstanceInQuarantineDoesNotLeadWhateverItsLogSays(t *testing.T) {
	var log logLines
	alone := startCluster(t, 1, nil)[0]
	alone.stop(t)
	markQuarantined(t, alone, "of a test")
	alone = start(t, instanceConfig{
		id: alone.config.ID, directory: alone.config.Directory, address: alone.raftAddress(),
		logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	state, _ := alone.State()
	if !strings.Contains(strings.Join(state.Unready(""), "; "), "because of a test") {
		t.Errorf("reasons = %q, want the quarantine because of a test", state.Unready(""))
	}
	if timing := alone.raft.ReloadableConfig(); timing.HeartbeatTimeout != neverTimeout || timing.ElectionTimeout != neverTimeout {
		t.Errorf("heartbeat timeout in quarantine = %v, want neverTimeout", timing.HeartbeatTimeout)
	}
	// Even if it stood for election, it could not vote for itself.
	if err := alone.allowElections(true); err != nil {
		t.Fatal(err)
	}
	until(t, "the instance has tried to vote for itself", func() bool {
		return strings.Contains(strings.Join(log.since(0), "\n"), "failed to persist vote")
	})
	if state := alone.raft.State(); state == raft.Leader {
		t.Error("an instance in quarantine has elected itself")
	}
}

// markQuarantined puts a stopped instance into quarantine.
func markQuarantined(t *testing.T, i *instance, reason string) {
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

// The quarantine ends only when the instance has the state of the cluster, whatever happens
// before.
func TestQuarantineOutlivesRestarts(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	change := register(t, leader, "a")
	blank := start(t, instanceConfig{id: "blank", directory: t.TempDir()})
	for range 2 {
		blank.eventually(t, "in quarantine", inQuarantineNow)
		blank.stop(t)
		blank = restart(t, blank, nil)
	}
	addVoter(t, leader, blank)
	blank.waitForRevision(t, change.Revision)
}

func TestBootstrappingDoesNotReplaceTheClusterOfTheDirectory(t *testing.T) {
	leader := startCluster(t, 2, nil)[1]
	leader.stop(t)
	markQuarantined(t, leader, "of a test")
	for _, path := range []string{"log.bolt", logstore.SnapshotsFolder} {
		if err := os.RemoveAll(filepath.Join(leader.config.Directory, path)); err != nil {
			t.Fatal(err)
		}
	}
	i := start(t, instanceConfig{id: leader.config.ID, directory: leader.config.Directory, bootstrap: true})
	if state, _ := i.State(); !inQuarantineNow(state) || state.Member || i.raft.LastIndex() != 0 {
		t.Errorf("state = %+v, want quarantine and no cluster of its own", state)
	}
}

// The instance had waited to be added, and now is to be the first one instead.
func TestAnInstanceThatWaitedMayBeBootstrapped(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir()})
	i.eventually(t, "in quarantine", inQuarantineNow)
	i.stop(t)
	i = start(t, instanceConfig{id: "a", directory: i.config.Directory, bootstrap: true})
	i.eventually(t, "leading and out of quarantine", func(s ports.LocalState) bool { return s.Leading && s.Quarantine == "" })
}

// failingReadIndex is neighbours whose first few ReadIndex requests fail.
type failingReadIndex struct {
	neighbours
	refuse *atomic.Int64
}

func (b failingReadIndex) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	if b.refuse.Add(-1) >= 0 {
		return ports.ReadIndex{}, errors.New("no answer")
	}
	return b.neighbours.ReadIndex(ctx, raftAddress)
}

// In an idle cluster no change of the state would trigger another try.
func TestALeaderThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	var refuse atomic.Int64
	refuse.Store(3)
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), peers: failingReadIndex{refuse: &refuse}})
	addVoter(t, leader, joining)
	if refuse.Load() >= 0 {
		t.Error("the instance has asked fewer than four times")
	}
}

// A crash or a newer build may leave a mark whose content this build can't read.
func TestAQuarantineMarkCountsWhateverItsContent(t *testing.T) {
	directory, err := logstore.Claim(t.TempDir(), logstore.Owner{RaftID: "a", Backend: "bolt"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if reason, err := quarantineReason(directory); reason != "" || err != nil {
		t.Errorf("quarantineReason without a mark = %q, %v, want none", reason, err)
	}
	for _, mark := range []string{"", "{}", `{"format":2,"why":"x"}`, "\x00\x00"} {
		if err := directory.Keep(quarantineName, []byte(mark)); err != nil {
			t.Fatal(err)
		}
		if reason, err := quarantineReason(directory); reason == "" || err != nil {
			t.Errorf("quarantineReason of mark %q = %q, %v, want a reason", mark, reason, err)
		}
	}
}

func TestAVoteInQuarantineIsNotStoredInPart(t *testing.T) {
	for name, trusted := range map[string]bool{"in quarantine": false, "out of quarantine": true} {
		t.Run(name, func(t *testing.T) {
			store := voteGuard{storeOf(t, 1), func() bool { return trusted }}
			if err := store.SetUint64(logstore.VoteTermKey, 7); (err == nil) != trusted {
				t.Errorf("write of the vote's term = %v, want success only out of quarantine", err)
			}
			if err := store.Set(logstore.VoteCandidateKey, []byte("a")); (err == nil) != trusted {
				t.Errorf("write of the vote's candidate = %v, want success only out of quarantine", err)
			}
			if err := store.SetUint64(logstore.TermKey, 7); err != nil {
				t.Errorf("write of the current term = %v, want success", err)
			}
		})
	}
}

// The acknowledgements of a voter count, also while it is being promoted or demoted.
func TestAnInstanceThatMayCountAsAVoterIsNoNonvoter(t *testing.T) {
	for name, test := range map[string]struct {
		id       string
		suffrage domain.Suffrage // that the instance is about to have
		after    bool            // isNonvoter once the change is committed
	}{
		"a voter that is demoted":     {"instance-1", domain.Nonvoter, true},
		"a nonvoter that is promoted": {"new", domain.Voter, false},
	} {
		t.Run(name, func(t *testing.T) {
			hold := newEntryHold()
			cluster := startCluster(t, 3, func(config *instanceConfig) {
				config.timing = longTimeouts
				config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, hold} }
			})
			t.Cleanup(hold.release) // before the cluster is stopped
			leader, follower := cluster[0], cluster[1]
			mustAdd(t, leader, nonvoter("new"))
			follower.eventually(t, "aware of the nonvoter", func(s ports.LocalState) bool {
				_, isMember := s.LastCommitted().Roster.Find("new")
				return isMember
			})
			if follower.isNonvoter("new") {
				t.Error("isNonvoter of a follower = true, want false: only a leader knows")
			}
			for id, want := range map[string]bool{"new": true, "stranger": false, leader.config.ID: false, follower.config.ID: false} {
				if got := leader.isNonvoter(id); got != want {
					t.Errorf("isNonvoter(%s) = %v, want the opposite", id, got)
				}
			}
			changed, _ := leader.roster().Find(test.id)
			changed.Suffrage = test.suffrage
			hold.on.Store(true)
			done := make(chan error, 1)
			go func() { done <- leader.Add(within(t), changed) }()
			until(t, "raft uses the new membership", func() bool {
				now, _ := leader.roster().Find(test.id)
				return now == changed
			})
			if leader.isNonvoter(test.id) {
				t.Error("isNonvoter before the commit = true, want false")
			}
			hold.release()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := leader.isNonvoter(test.id); got != test.after {
				t.Errorf("isNonvoter after the commit = %v, want the opposite", got)
			}
		})
	}
}

// scriptedReadIndex is ports.Peers whose ReadIndex answers come from the test.
type scriptedReadIndex struct {
	neighbours
	asked  chan struct{}
	answer chan ports.ReadIndex
}

func (a scriptedReadIndex) ReadIndex(ctx context.Context, _ string) (ports.ReadIndex, error) {
	select {
	case a.asked <- struct{}{}:
	case <-ctx.Done():
		return ports.ReadIndex{}, ctx.Err()
	}
	return <-a.answer, nil
}

// The instance was made a voter while it asked, so the leader may already count on it.
func TestAnInstanceThatBecameAVoterWhileItCaughtUpStaysInQuarantine(t *testing.T) {
	questions := scriptedReadIndex{asked: make(chan struct{}), answer: make(chan ports.ReadIndex)}
	leader := scriptedLeader{rpcs: make(chan raft.RPC)}
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
		previous := min(index-1, 1) * scriptedTerm
		entry := raft.Log{Index: index, Term: scriptedTerm, Type: raft.LogConfiguration, Data: membership}
		if got := leader.append(t, index-1, previous, []*raft.Log{&entry}, index); !got.Success {
			t.Fatalf("answer to a membership = %+v, want success", got)
		}
		i.eventually(t, "at the membership", func(s ports.LocalState) bool { return s.Applied == index })
	}
	becomes(raft.Nonvoter)
	receive(t, questions.asked, "the instance does not ask the leader")
	becomes(raft.Voter)
	questions.answer <- ports.ReadIndex{RaftID: "leader", Index: index}
	becomes(raft.Nonvoter)
	receive(t, questions.asked, "the instance does not ask again once it is a nonvoter")
	if state, _ := i.State(); trusted(state) {
		t.Error("the instance left quarantine on an answer from when it was a voter")
	}
	questions.answer <- ports.ReadIndex{RaftID: "leader", Index: index}
	i.eventually(t, "out of quarantine", trusted)
}
