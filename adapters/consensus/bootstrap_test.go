package consensus

import (
	"errors"
	"log/slog"
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
