//go:build unix

package consensus

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// A disk that hangs while the list is stored must not keep anyone from seeing the
// membership.
func TestTheMembershipDoesNotWaitForTheListOfPeersToBeStored(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	until(t, "the leader has stored itself", func() bool { return leader.wasAlone() })
	// Opening a FIFO for writing blocks until it is opened for reading.
	hanging := filepath.Join(leader.config.Directory, peersName+".tmp")
	if err := syscall.Mkfifo(hanging, 0o600); err != nil {
		t.Fatal(err)
	}
	letGo := func() error {
		reader, err := os.OpenFile(hanging, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { reader.Close() })
		return os.Remove(hanging)
	}
	t.Cleanup(func() { _ = letGo() }) // in case the test fails before
	for _, id := range []string{"b", "c"} {
		mustAdd(t, leader, domain.Instance{ID: id, RaftAddress: id + ".invalid:1", Suffrage: domain.Nonvoter})
		leader.eventually(t, "aware of "+id, func(s ports.LocalState) bool {
			_, isMember := s.Roster.Find(id)
			return isMember
		})
	}
	if err := letGo(); err != nil {
		t.Fatal(err)
	}
	until(t, "the leader has stored all", func() bool {
		kept, err := readPeers(leader.directory)
		return err == nil && len(kept.Instances()) == 3
	})
}
