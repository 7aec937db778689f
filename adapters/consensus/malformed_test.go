package consensus

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/frames"
)

func TestMessagesThatWouldMakeRaftPanicAreRefused(t *testing.T) {
	members := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "h:1"}}})
	broken := members[:len(members)-1]
	for name, test := range map[string]struct {
		command any
		refused bool
	}{
		"a nil entry":                            {&raft.AppendEntriesRequest{Entries: []*raft.Log{nil}}, true},
		"a nil entry behind another":             {&raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1}, nil}}, true},
		"a malformed membership":                 {&raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: raft.LogConfiguration, Data: broken}}}, true},
		"an empty membership":                    {&raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: raft.LogConfiguration}}}, true},
		"a membership":                           {&raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: raft.LogConfiguration, Data: members}}}, false},
		"a command":                              {&raft.AppendEntriesRequest{Entries: []*raft.Log{{Data: broken}}}, false},
		"a heartbeat":                            {&raft.AppendEntriesRequest{}, false},
		"a snapshot without a membership":        {&raft.InstallSnapshotRequest{SnapshotVersion: 1}, true},
		"a snapshot with a malformed membership": {&raft.InstallSnapshotRequest{SnapshotVersion: 1, Configuration: broken}, true},
		"a snapshot":                             {&raft.InstallSnapshotRequest{SnapshotVersion: 1, Configuration: members}, false},
		"a vote":                                 {&raft.RequestVoteRequest{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := malformed(test.command); errors.Is(err, frames.ErrHostile) != test.refused {
				t.Errorf("malformed = %v, want ErrHostile if the message is to be refused", err)
			}
		})
	}
}

func TestAnInvalidEntryIsRefusedWithoutEndingTheInstance(t *testing.T) {
	cluster := startCluster(t, 2, nil)
	leader := leaderOf(t, cluster)
	conn := dialLane(t, cluster[1].demux)
	defer conn.Close()
	if err := dialPreface(newPreface("stranger", "", ""), conn); err != nil {
		t.Fatal(err)
	}
	textOf := func(s string) string { return string([]byte{0xa0 | byte(len(s))}) + s }
	message := "\x00\x84" + textOf("ProtocolVersion") + "\x03" + textOf("Term") + "\xce\x00\x01\x86\xa0" +
		textOf("LeaderCommitIndex") + "\x01" + textOf("Entries") + "\x91\xc0"
	if _, err := io.WriteString(conn, message); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1000)
	n, err := conn.Read(answer)
	if err != nil || !strings.Contains(string(answer[:n]), "an entry is missing") {
		t.Errorf("answer = %q, %v, want that an entry is missing", answer[:n], err)
	}
	change := register(t, leader, "afterwards")
	cluster[1].waitForRevision(t, change.Revision)
}
