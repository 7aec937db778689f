package consensus

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/test/golden"
)

func TestPeersAreKept(t *testing.T) {
	directory, err := logstore.Claim(t.TempDir(), logstore.Owner{RaftID: "a", Backend: "bolt"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if got, err := readPeers(directory); err != nil || len(got.Instances()) != 0 {
		t.Errorf("readPeers without a file = %+v, %v, want an empty list", got, err)
	}
	want := domain.NewRoster(
		domain.Instance{ID: "a", RaftAddress: "h:1", Suffrage: domain.Voter},
		domain.Instance{ID: "b", RaftAddress: "[::1]:2", Suffrage: domain.Nonvoter},
	)
	if err := writePeers(directory, want); err != nil {
		t.Fatal(err)
	}
	if got, err := readPeers(directory); err != nil || !got.Equal(want) {
		t.Errorf("readPeers = %+v, %v, want the stored list", got, err)
	}
	path := filepath.Join(directory.Path(), peersName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden.File(t, "peers-v1.golden", whole)
	for name, damaged := range map[string]string{
		"a changed address":          strings.Replace(string(whole), "h:1", "h:7", 1),
		"the first half of the file": string(whole[:len(whole)/2]),
		"an empty file":              "",
		"a later format":             strings.Replace(string(whole), `"format": 1`, `"format": 2`, 1),
	} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readPeers(directory); !errors.Is(err, errPeersFile) {
			t.Errorf("readPeers of %s = %+v, %v, want errPeersFile", name, got, err)
		}
	}
}

func TestAnInstanceRemembersItsPeers(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	for _, i := range cluster {
		until(t, "the instance has stored all three", func() bool {
			state, _ := i.State()
			kept, err := readPeers(i.directory)
			return err == nil && kept.Voters() == 3 && kept.Equal(state.Roster)
		})
	}
}

// The list is stored without another change of the membership.
func TestAListOfPeersThatCouldNotBeKeptIsKeptLater(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	until(t, "the leader has stored itself", func() bool { return leader.wasAlone() })
	// A directory in the place of the temporary file makes the write fail for root too.
	obstacle := filepath.Join(leader.config.Directory, peersName+".tmp")
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, leader, domain.Instance{ID: "b", RaftAddress: "b.invalid:1", Suffrage: domain.Nonvoter})
	leader.eventually(t, "aware of b", func(s ports.LocalState) bool { return len(s.Roster.Instances()) == 2 })
	if !leader.wasAlone() {
		t.Fatal("the list was stored, so the test shows nothing")
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	until(t, "the leader has stored both", func() bool { return leader.hasPeers() })
}

// The last change is not lost when the process ends in an orderly way.
func TestAListOfPeersIsKeptAtTheEnd(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	mustAdd(t, leader, domain.Instance{ID: "b", RaftAddress: "b.invalid:1", Suffrage: domain.Nonvoter})
	leader.stop(t)
	directory, err := logstore.ClaimExisting(leader.config.Directory)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if kept, err := readPeers(directory); err != nil || len(kept.Instances()) != 2 {
		t.Errorf("readPeers = %+v, %v, want two instances", kept, err)
	}
}
