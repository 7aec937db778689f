package consensus

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Whoever adds a kind of entry says in which format it came, and raises Format.
func TestEveryKindOfEntryHasItsFormat(t *testing.T) {
	covered := map[entryKind]bool{}
	for name, entry := range goldenEntries(t) {
		kind := kindOf(entry)
		covered[kind] = true
		if format := introducedIn[kind]; format < firstFormat || format > Format {
			t.Errorf("%s, of kind %d, came with format %d; this build reads %d", name, kind, format, Format)
		}
	}
	for kind := range introducedIn {
		if !covered[kind] {
			t.Errorf("no golden file has an entry of kind %d", kind)
		}
	}
}

// Builds up to the one that first told its format read these, and a cluster that has
// them must never have to wait for a format.
func TestTheFirstFormatDoesNotChange(t *testing.T) {
	for kind := kindOpening; kind <= kindPromotion; kind++ {
		if introducedIn[kind] != firstFormat {
			t.Errorf("kind %d has moved to format %d", kind, introducedIn[kind])
		}
	}
}

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
		t.Fatalf("error %v", err)
	}
	for word, said := range map[string]bool{`"old" (format 2)`: true, `"silent" (format 1)`: true, "upgraded": false, "self": false} {
		if strings.Contains(err.Error(), word) != said {
			t.Errorf("%q names %s: %v", err, word, !said)
		}
	}
	n.Heard("old", 3)
	n.Heard("silent", 3)
	if err := n.checkAllCanRead(domain.Revive{ID: "a"}); err != nil {
		t.Errorf("all read it: %v", err)
	}
}

// Writes share an entry once all are known to read that.
func TestAnInstanceThatReadsAnEarlierFormatKeepsWritesFromSharing(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	acquaint(t, cluster)
	leader := cluster[0]
	may := func() bool { return leader.writes.mayShare() }
	if !may() {
		t.Fatal("all read it, and they don't share")
	}
	leader.Heard(cluster[1].config.ID, introducedIn[kindGroup]-1)
	if may() {
		t.Error("one does not read it, and they share")
	}
	leader.Heard(cluster[1].config.ID, introducedIn[kindGroup])
	if !may() {
		t.Error("all read it again, and they don't share")
	}
}

// An instance that leads alone has nobody to wait for.
func TestOneInstanceProposesWhatItReads(t *testing.T) {
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
		t.Errorf("a wish: %v", err)
	}
}
