package consensus

import (
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func removed(s ports.LocalState) bool { return s.Removed }

// While one is away it is removed. It finds that out, and leaves the others alone;
// with what it has, or with nothing, it may be added again.
func TestAnInstanceThatMissedItsRemovalNoticesIt(t *testing.T) {
	for name, back := range map[string]func(*testing.T, *instance) *instance{
		"and is back with what it has": func(_ *testing.T, i *instance) *instance { return i },
		"and is back with nothing":     restartWiped,
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 3, nil)
			leader, away := cluster[0], cluster[2]
			away.stop(t)
			if err := leader.Remove(within(t), away.config.ID); err != nil {
				t.Fatal(err)
			}
			away = restart(t, away, nil)
			away.eventually(t, "aware that it was removed", removed)
			if state, _ := away.State(); state.Member || strings.Contains(strings.Join(state.Unready(""), "; "), "waits to be added") {
				t.Errorf("it was removed, and is a member: %v, %q", state.Member, state.Unready(""))
			}
			// Raft's last word to who was removed may reach it when it is back: then its
			// own raft knows, which elects no one who is no member.
			until(t, "it stands for no election any more", func() bool {
				_, member := away.roster().Find(away.config.ID)
				return !member || away.raft.ReloadableConfig().HeartbeatTimeout == neverTimeout
			})
			away = back(t, away)
			change := register(t, leader, "meanwhile")
			admit(t, leader, away)
			away.waitForRevision(t, change.Revision)
			away.eventually(t, "a member that may lead", func(s ports.LocalState) bool { return s.Member && !s.Removed })
			until(t, "it stands for election when it has to", func() bool {
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
	// Raft may or may not tell it, before it is told nothing any more.
	leaving.eventually(t, "aware that it was removed", removed)
	leaving = restartWiped(t, leaving)
	admit(t, leader, leaving)
	leaving.eventually(t, "a member", func(s ports.LocalState) bool { return s.Member && !s.Removed })
}

// Who is cut off with the others is not removed, and says nothing of the kind.
func TestAnInstanceWithoutContactWasNotRemoved(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	left := cluster[2]
	for _, i := range cluster[:2] {
		i.stop(t)
	}
	left.eventually(t, "in touch with nobody", func(s ports.LocalState) bool { return !s.InTouch && s.LeaderID == "" })
	state, _ := left.State()
	if left.isRemoved(left.state.read()) || state.Removed {
		t.Error("the instance takes itself for removed")
	}
}

// One that is to be a voter is started again, while nobody tells it how much of
// its log is committed.
func TestAnInstanceLearnsItsPromotionFromItsLog(t *testing.T) {
	for name, test := range map[string]struct {
		promotions []promotion
		staged     bool
	}{
		"it is to be one":      {[]promotion{{ID: "joining"}}, true},
		"and so is another":    {[]promotion{{ID: "joining"}, {ID: "another"}}, true},
		"another is to be one": {[]promotion{{ID: "another"}}, false},
		"it is to be none":     {[]promotion{{ID: "joining"}, {ID: "joining", Settled: true}}, false},
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

func TestWhoseAnswerSaysThatAnInstanceWasRemoved(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir()})
	t.Cleanup(func() { i.stop(t) })
	state := &localState{LocalState: ports.LocalState{ClusterID: "c"}}
	for name, test := range map[string]struct {
		answer  ports.ReadIndex
		removed bool
	}{
		"of a leader that has it":             {ports.ReadIndex{ClusterID: "c", Members: []string{"a", "b"}}, false},
		"of a leader that lacks it":           {ports.ReadIndex{ClusterID: "c", Members: []string{"b"}}, true},
		"of another cluster":                  {ports.ReadIndex{ClusterID: "d", Members: []string{"b"}}, false},
		"of a build that lists nobody at all": {ports.ReadIndex{ClusterID: "c"}, false},
	} {
		if got := i.excludes(state, test.answer); got != test.removed {
			t.Errorf("%s: %v", name, got)
		}
	}
}
