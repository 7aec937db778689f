package consensus

import (
	"errors"
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

func TestEntriesOfASuccessorAreNotSent(t *testing.T) {
	errTrouble := errors.New("trouble")
	for name, test := range map[string]struct {
		entries []*raft.Log
		trouble error
		want    error
	}{
		"no entries":                           {nil, nil, nil},
		"entries up to this term":              {[]*raft.Log{{Index: 1, Term: 2}, {Index: 2, Term: 3}}, nil, nil},
		"entries of a later term":              {[]*raft.Log{{Index: 1, Term: 3}, {Index: 2, Term: 4}}, nil, errDeposed},
		"entries, with the disk in trouble":    {[]*raft.Log{{Index: 1, Term: 3}}, errTrouble, errTrouble},
		"no entries, with the disk in trouble": {nil, errTrouble, errTrouble},
		"entries of an earlier term":           {[]*raft.Log{{Index: 1, Term: 2}}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mayNotSend(&raft.AppendEntriesRequest{Term: 3, Entries: test.entries}, func() error { return test.trouble })
			if got != test.want {
				t.Errorf("error = %v, want %v", got, test.want)
			}
		})
	}
}

// snapshotCounter is a transport that accepts and counts snapshots.
type snapshotCounter struct {
	transport
	sent *int
}

func (s snapshotCounter) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	*s.sent++
	return nil
}

func TestASnapshotOfASuccessorIsNotSent(t *testing.T) {
	errTrouble := errors.New("trouble")
	for name, test := range map[string]struct {
		term    uint64 // of the snapshot; the leader's is 3
		trouble error
		want    error
	}{
		"a snapshot of an earlier term":        {2, nil, nil},
		"a snapshot of this term":              {3, nil, nil},
		"a snapshot of a later term":           {4, nil, errDeposed},
		"a snapshot, with the disk in trouble": {3, errTrouble, errTrouble},
	} {
		t.Run(name, func(t *testing.T) {
			sent := 0
			m := mutedTransport{snapshotCounter{sent: &sent}, func() error { return test.trouble }}
			request := &raft.InstallSnapshotRequest{Term: 3, LastLogIndex: 7, LastLogTerm: test.term}
			got := m.InstallSnapshot("other", "other:1", request, &raft.InstallSnapshotResponse{}, nil)
			if got != test.want || (sent > 0) != (test.want == nil) {
				t.Errorf("error = %v, want %v; snapshots sent = %d", got, test.want, sent)
			}
		})
	}
}
