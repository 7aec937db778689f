package consensus

import (
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func isRemoved(s ports.LocalState) bool { return s.Removed }

// An instance is removed while it is down. It notices that, and does not disturb the others.
// It may be added again, with its data or without.
func TestAnInstanceThatMissedItsRemovalNoticesIt(t *testing.T) {
	for name, back := range map[string]func(*testing.T, *instance) *instance{
		"the instance comes back with its data":    func(_ *testing.T, i *instance) *instance { return i },
		"the instance comes back without its data": restartWiped,
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 3, nil)
			leader, away := cluster[0], cluster[2]
			away.stop(t)
			if err := leader.Remove(within(t), away.config.ID); err != nil {
				t.Fatal(err)
			}
			away = restart(t, away, nil)
			away.eventually(t, "aware that it was removed", isRemoved)
			if state, _ := away.State(); state.Member || strings.Contains(strings.Join(state.Unready(""), "; "), "waits to be added") {
				t.Errorf("state of the removed instance = member %v, reasons %q, want no member that waits to be added", state.Member, state.Unready(""))
			}
			// Raft's last message to a removed instance may reach it when it is back. Then
			// its own raft knows of the removal, and does not elect a non-member.
			until(t, "the removed instance no longer stands for election", func() bool {
				_, member := away.roster().Find(away.config.ID)
				return !member || away.raft.ReloadableConfig().HeartbeatTimeout == neverTimeout
			})
			away = back(t, away)
			change := register(t, leader, "meanwhile")
			addVoter(t, leader, away)
			away.waitForRevision(t, change.Revision)
			away.eventually(t, "a member that may lead", func(s ports.LocalState) bool { return s.Member && !s.Removed })
			until(t, "the new member may stand for election", func() bool {
				return away.raft.ReloadableConfig().HeartbeatTimeout != neverTimeout
			})
		})
	}
}

func TestAnInstanceThatSawItsRemovalReportsIt(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader, leaving := cluster[0], cluster[2]
	if err := leader.Remove(within(t), leaving.config.ID); err != nil {
		t.Fatal(err)
	}
	// Raft may or may not tell the instance of its removal before it stops sending to it.
	leaving.eventually(t, "aware that it was removed", isRemoved)
	leaving = restartWiped(t, leaving)
	addVoter(t, leader, leaving)
	leaving.eventually(t, "a member", func(s ports.LocalState) bool { return s.Member && !s.Removed })
}

// An instance that lost contact because the others are down was not removed, and must not
// report that.
func TestAnInstanceWithoutContactWasNotRemoved(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	left := cluster[2]
	for _, i := range cluster[:2] {
		i.stop(t)
	}
	left.eventually(t, "out of touch", func(s ports.LocalState) bool { return !s.InTouch && s.LeaderID == "" })
	state, _ := left.State()
	if left.isRemoved(left.state.read()) || state.Removed {
		t.Error("an instance without contact reports that it was removed")
	}
}

// An instance that is to become a voter is restarted, and no leader tells it how much of its
// log is committed.
func TestAnInstanceLearnsItsPromotionFromItsLog(t *testing.T) {
	for name, test := range map[string]struct {
		promotions []codec.Promotion
		staged     bool
	}{
		"the instance's promotion is wanted":                {[]codec.Promotion{{ID: "joining"}}, true},
		"the instance's promotion and another's are wanted": {[]codec.Promotion{{ID: "joining"}, {ID: "another"}}, true},
		"only another's promotion is wanted":                {[]codec.Promotion{{ID: "another"}}, false},
		"the instance's promotion is settled":               {[]codec.Promotion{{ID: "joining"}, {ID: "joining", Settled: true}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			leader := startCluster(t, 1, nil)[0]
			joining := start(t, instanceConfig{id: "joining", directory: t.TempDir()})
			for _, wanted := range test.promotions {
				if err := leader.proposePromotion(within(t), wanted); err != nil {
					t.Fatal(err)
				}
			}
			asNonvoter := voter(joining)
			asNonvoter.Suffrage = domain.Nonvoter
			mustAdd(t, leader, asNonvoter)
			joining.mustBecome(t, domain.Nonvoter)
			joining.eventually(t, "out of quarantine", trusted)
			joining.stop(t)
			leader.stop(t)
			joining = restart(t, joining, nil)
			if state, _ := joining.State(); state.Applied != 0 || state.Staged != test.staged {
				t.Errorf("staged = %v at entry %d, want %v at 0", state.Staged, state.Applied, test.staged)
			}
		})
	}
}

func TestOnlyAnAnswerOfItsClusterSaysThatAnInstanceWasRemoved(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir()})
	t.Cleanup(func() { i.stop(t) })
	state := &localState{LocalState: ports.LocalState{ClusterID: "c"}}
	for name, test := range map[string]struct {
		answer    ports.ReadIndex
		isRemoved bool
	}{
		"a leader that has it as a member":           {ports.ReadIndex{ClusterID: "c", Members: []string{"a", "b"}}, false},
		"a leader that does not have it as a member": {ports.ReadIndex{ClusterID: "c", Members: []string{"b"}}, true},
		"another cluster":                            {ports.ReadIndex{ClusterID: "d", Members: []string{"b"}}, false},
		"a build that lists no members":              {ports.ReadIndex{ClusterID: "c"}, false},
	} {
		if got := i.excludes(state, test.answer); got != test.isRemoved {
			t.Errorf("answer of %s: excludes = %v, want the opposite", name, got)
		}
	}
}
