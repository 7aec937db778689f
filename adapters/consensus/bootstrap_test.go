package consensus

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
)

// unwritable is a store in which no entry comes to be.
type unwritable struct{ logstore.Store }

var errUnwritable = errors.New("no entry is written")

func (unwritable) StoreLog(*raft.Log) error    { return errUnwritable }
func (unwritable) StoreLogs([]*raft.Log) error { return errUnwritable }

// Raft stores the first term, and then the first entry.
func TestABootstrapThatWasCutShortBeginsAnew(t *testing.T) {
	config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "bolt"}
	config.open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := bolt.Open(dir, logger)
		return unwritable{store}, err
	}
	cut := newInstance(t, config)
	if err := errors.Join(cut.Claim(t.Context()), cut.demux.Open(t.Context()), cut.Open(t.Context())); err == nil || !strings.Contains(err.Error(), errUnwritable.Error()) {
		t.Fatalf("error %v", err)
	}
	cluster := cut.directory.ClusterID()
	cut.stop(t)
	config.open = bolt.Open
	again := start(t, config)
	again.eventually(t, "leading", leading)
	register(t, again, "a")
	if now := again.directory.ClusterID(); now != cluster {
		t.Errorf("cluster %s was %s", now, cluster)
	}
}

// The others still have what it acknowledged, and would take back what it does as another cluster
// of the same name.
func TestALostStateIsNotFoundedAnew(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"where it knows the others":        func(string) error { return nil },
		"where it can't read who they are": func(path string) error { return os.Truncate(path, 1) },
		"where a newer build wrote that": func(path string) error {
			return os.WriteFile(path, []byte(`{"format":2,"members":{}}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 2, func(config *instanceConfig) { config.backend, config.open = "bolt", bolt.Open })
			lost := cluster[0]
			until(t, "it knows the other one", lost.hasPeers)
			lost.stop(t)
			dir := lost.config.Directory
			if err := errors.Join(os.Remove(filepath.Join(dir, "log.bolt")), os.RemoveAll(filepath.Join(dir, "snapshots")), spoil(filepath.Join(dir, peersName))); err != nil {
				t.Fatal(err)
			}
			again := start(t, instanceConfig{id: lost.config.ID, directory: dir, address: lost.raftAddress(), bootstrap: true, backend: "bolt", open: bolt.Open})
			if state, _ := again.State(); state.Quarantine == "" || state.Leading || again.raft.LastIndex() > 0 {
				t.Errorf("quarantine %q, leading %v, a log up to %d", state.Quarantine, state.Leading, again.raft.LastIndex())
			}
		})
	}
}
