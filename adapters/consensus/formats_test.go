package consensus

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestInstancesThatReadAnEarlierFormatAreNamed(t *testing.T) {
	roster := domain.NewRoster(
		domain.Instance{ID: "self", RaftAddress: "h:1", Suffrage: domain.Voter},
		domain.Instance{ID: "upgraded", RaftAddress: "h:2", Suffrage: domain.Voter},
		domain.Instance{ID: "old", RaftAddress: "h:3", Suffrage: domain.Nonvoter},
		domain.Instance{ID: "silent", RaftAddress: "h:4", Suffrage: domain.Voter},
	)
	n := &Node{config: Config{ID: "self"}, formats: newFormats(3), state: newSharedState(ports.LocalState{Roster: roster})}
	n.hooks.formatOf = func(any) int { return 3 }
	n.Heard("upgraded", 3)
	n.Heard("old", 2)
	err := n.checkAllCanRead(domain.Revive{ID: "a"})
	if !errors.Is(err, ports.ErrUpgrading) {
		t.Fatalf("checkAllCanRead = %v, want ErrUpgrading", err)
	}
	for word, said := range map[string]bool{`"old" (format 2)`: true, `"silent" (format 1)`: true, "upgraded": false, "self": false} {
		if strings.Contains(err.Error(), word) != said {
			t.Errorf("error %q names %s = %v, want the opposite", err, word, !said)
		}
	}
	n.Heard("old", 3)
	n.Heard("silent", 3)
	if err := n.checkAllCanRead(domain.Revive{ID: "a"}); err != nil {
		t.Errorf("checkAllCanRead when all instances read the format = %v, want success", err)
	}
}

// Writes share an entry only when all instances are known to read shared entries.
func TestAnInstanceThatReadsAnEarlierFormatKeepsWritesFromSharing(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	tellFormats(t, cluster)
	leader := cluster[0]
	may := func() bool { return leader.writes.mayShare() }
	if !may() {
		t.Fatal("mayShare = false although all instances read shared entries")
	}
	leader.Heard(cluster[1].config.ID, codec.FormatOf(codec.CommandGroup{})-1)
	if may() {
		t.Error("mayShare = true although an instance does not read shared entries")
	}
	leader.Heard(cluster[1].config.ID, codec.FormatOf(codec.CommandGroup{}))
	if !may() {
		t.Error("mayShare = false although all instances read shared entries again")
	}
}

// An instance that is alone has no other's format to wait for.
func TestALoneInstanceProposesAnyFormatThatItReads(t *testing.T) {
	alone := newInstance(t, instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true,
		hooks: testHooks{formatOf: func(any) int { return 5 }}})
	alone.formats.own = 5
	t.Cleanup(func() { alone.stop(t) })
	if err := errors.Join(alone.Claim(t.Context()), alone.demux.Open(t.Context()), alone.Open(t.Context())); err != nil {
		t.Fatal(err)
	}
	alone.eventually(t, "leading", leading)
	register(t, alone, "a")
	if err := alone.AddPromotion(within(t), "n2"); err != nil {
		t.Errorf("AddPromotion = %v, want success", err)
	}
}
