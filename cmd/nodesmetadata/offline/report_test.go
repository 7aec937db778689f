package offline

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestTheReportOfADirectory(t *testing.T) {
	self := domain.Instance{ID: "n1", RaftAddress: "h:1", Suffrage: domain.Voter}
	other := domain.Instance{ID: "n2", RaftAddress: "h:2", Suffrage: domain.Nonvoter}
	tests := map[string]struct {
		report consensus.Report
		want   string
	}{
		"without raft state": {
			report: consensus.Report{Directory: "/d", Backend: "wal", RaftID: "n1", Quarantine: "it lost its log", Blank: true},
			want: `
directory        /d
storage backend  wal
raft id          n1
cluster id       none
quarantine       it lost its log: it neither votes nor counts until a leader has made it a nonvoter and sent it all
raft state       none
`,
		},
		"with hardly anything": {
			report: consensus.Report{Directory: "/d", Backend: "wal", RaftID: "n1", ClusterID: "c", Term: 3},
			want: `
directory        /d
storage backend  wal
raft id          n1
cluster id       c
term             3
vote             none
log              empty
reaches          entry 0 of term 0
snapshots        none
membership       none
registry         revision 0, 0 nodes, if all of the log is committed
`,
		},
		"with everything": {
			report: consensus.Report{
				Directory: "/d", Backend: "wal", RaftID: "n1", ClusterID: "c",
				Term: 4, VoteTerm: 3, VotedFor: "n2@h:2", FirstIndex: 5, LastIndex: 9, ReachIndex: 9, ReachTerm: 2,
				Snapshots: []consensus.SnapshotReport{{ID: "2-7-1", Index: 7, Term: 2, Size: 70}, {ID: "1-6-1", Index: 6, Term: 1, Size: 60}},
				Roster:    domain.NewRoster(self, other), RosterIndex: 8, Revision: 11, Nodes: 10,
			},
			want: `
directory        /d
storage backend  wal
raft id          n1
cluster id       c
term             4
vote             for n2@h:2 in term 3
log              entries 5 to 9
reaches          entry 9 of term 2
snapshots        up to entry 7 of term 2, 70 bytes (2-7-1)
                 up to entry 6 of term 1, 60 bytes (1-6-1)
membership       n1=h:1 voter
                 n2=h:2 nonvoter
                 as of entry 8
registry         revision 11, 10 nodes, if all of the log is committed
`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			(&console{out: &out}).report(test.report)
			if got := out.String(); got != test.want[1:] {
				t.Errorf("report =\n%s\nwant\n%s", got, test.want[1:])
			}
		})
	}
}

func TestFaultsWithTheSameHelpShareIt(t *testing.T) {
	fault := func(path, help string) consensus.Fault {
		return consensus.Fault{Path: path, What: errors.New("is damaged"), Help: help}
	}
	err := faultsOf(consensus.Report{Faults: []consensus.Fault{fault("/a", "move it"), fault("/b", "move it"), fault("/c", ""), fault("/d", "restore it")}})
	if want := "/a: is damaged\n/b: is damaged\nmove it\n/c: is damaged\n/d: is damaged\nrestore it"; err.Error() != want {
		t.Errorf("faults =\n%v\nwant\n%s", err, want)
	}
}

func TestARecoveryWarnsOfAnInstanceThatMayLackMuch(t *testing.T) {
	voter := domain.Instance{ID: "n1", RaftAddress: "h:1", Suffrage: domain.Voter}
	nonvoter := voter
	nonvoter.Suffrage = domain.Nonvoter
	other := domain.Instance{ID: "n2", RaftAddress: "h:2", Suffrage: domain.Voter}
	for name, test := range map[string]struct {
		roster domain.Roster
		want   string // none: no warning
	}{
		"a voter":                   {domain.NewRoster(voter, other), ""},
		"a nonvoter":                {domain.NewRoster(nonvoter, other), "the instance was not a voter"},
		"one that had been removed": {domain.NewRoster(other), "the instance had been removed"},
	} {
		t.Run(name, func(t *testing.T) {
			text := (&recovery{self: voter}).announce(consensus.Report{RaftID: "n1", Roster: test.roster})
			if !strings.Contains(text, test.want) || strings.Contains(text, "Warning") != (test.want != "") {
				t.Errorf("announcement = %s\nwant a warning with %q", text, test.want)
			}
		})
	}
}

// It is the last look before an instance starts with the directory.
func TestARecoveryThatChangedMoreThanTheMembershipIsAnError(t *testing.T) {
	self := domain.Instance{ID: "n1", RaftAddress: "h:1", Suffrage: domain.Voter}
	other := domain.Instance{ID: "n2", RaftAddress: "h:2", Suffrage: domain.Voter}
	before := consensus.Report{ClusterID: "c", Roster: domain.NewRoster(self, other), Revision: 7, Nodes: 5}
	for name, test := range map[string]struct {
		change func(after *consensus.Report)
		want   string // none: no error
	}{
		"only the membership":    {func(*consensus.Report) {}, ""},
		"not the membership":     {func(r *consensus.Report) { r.Roster = before.Roster }, "not the new one"},
		"the revision":           {func(r *consensus.Report) { r.Revision++ }, "revision 8"},
		"the nodes":              {func(r *consensus.Report) { r.Nodes-- }, "4 nodes"},
		"the cluster":            {func(r *consensus.Report) { r.ClusterID = "d" }, "restore the copy"},
		"a file that is damaged": {func(r *consensus.Report) { r.Faults = []consensus.Fault{{Path: "x", What: errors.New("is damaged")}} }, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			after := before
			after.Roster = domain.NewRoster(self)
			test.change(&after)
			switch err := same(before, after, self); {
			case test.want == "" && err != nil:
				t.Errorf("error = %v, want none", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
		})
	}
}
