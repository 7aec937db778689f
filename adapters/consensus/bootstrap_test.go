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
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

// unwritableStore is a store that stores no entry.
type unwritableStore struct{ logstore.Store }

var errUnwritableStore = errors.New("no entry is written")

func (unwritableStore) StoreLog(*raft.Log) error    { return errUnwritableStore }
func (unwritableStore) StoreLogs([]*raft.Log) error { return errUnwritableStore }

// Raft stores the first term, and only then the first entry.
func TestABootstrapThatWasCutShortBeginsAnew(t *testing.T) {
	config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "bolt"}
	config.open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := bolt.Open(dir, logger)
		return unwritableStore{store}, err
	}
	cut := newInstance(t, config)
	if err := errors.Join(cut.Claim(t.Context()), cut.demux.Open(t.Context()), cut.Open(t.Context())); err == nil || !strings.Contains(err.Error(), errUnwritableStore.Error()) {
		t.Fatalf("start = %v, want it to fail with the error of the store", err)
	}
	cluster := cut.directory.ClusterID()
	cut.stop(t)
	config.open = bolt.Open
	again := start(t, config)
	again.eventually(t, "leading", leading)
	register(t, again, "a")
	if now := again.directory.ClusterID(); now != cluster {
		t.Errorf("cluster id = %s, want %s as before", now, cluster)
	}
}

// The other instance still has what the lost one acknowledged, and would overwrite what it
// does as a new cluster with the same id.
func TestALostStateIsNotBootstrappedAgain(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"the list of peers is there":      func(string) error { return nil },
		"the list of peers is lost too":   os.Remove,
		"the list of peers can't be read": func(path string) error { return os.Truncate(path, 1) },
		"the list of peers was written by a newer build": func(path string) error {
			return os.WriteFile(path, []byte(`{"format":2,"members":{}}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, 2, func(config *instanceConfig) { config.backend, config.open = "bolt", bolt.Open })
			lost := cluster[0]
			until(t, "the instance has stored its list of peers", lost.hasPeers)
			lost.stop(t)
			dir := lost.config.Directory
			if err := errors.Join(os.Remove(filepath.Join(dir, "log.bolt")), os.RemoveAll(filepath.Join(dir, "snapshots")), spoil(filepath.Join(dir, peersName))); err != nil {
				t.Fatal(err)
			}
			again := start(t, instanceConfig{id: lost.config.ID, directory: dir, address: lost.raftAddress(), bootstrap: true, backend: "bolt", open: bolt.Open})
			if state, _ := again.State(); state.Quarantine == "" || state.Leading || again.raft.LastIndex() > 0 {
				t.Errorf("state = quarantine %q, leading %v, last index %d, want quarantine, not leading, and no log", state.Quarantine, state.Leading, again.raft.LastIndex())
			}
		})
	}
}

// cutShort is a store with which founding a cluster fails at one of its two writes.
type cutShort struct {
	logstore.Store
	term, entry func(write func() error) error // nil: the write succeeds
}

var errCutShort = errors.New("cut short")

func failBefore(func() error) error { return errCutShort }

func failAfter(write func() error) error { return errors.Join(write(), errCutShort) }

func (c cutShort) SetUint64(key []byte, value uint64) error {
	write := func() error { return c.Store.SetUint64(key, value) }
	if c.term == nil {
		return write()
	}
	return c.term(write)
}

func (c cutShort) StoreLogs(entries []*raft.Log) error {
	write := func() error { return c.Store.StoreLogs(entries) }
	if c.entry == nil {
		return write()
	}
	return c.entry(write)
}

func (c cutShort) StoreLog(entry *raft.Log) error { return c.StoreLogs([]*raft.Log{entry}) }

// No other instance has heard of the cluster by then. The instance may be started in between
// without bootstrap.
func TestAFoundingMayBeCutShortAtEachWriteToTheStore(t *testing.T) {
	for name, cut := range map[string]cutShort{
		"before the first term":                      {term: failBefore},
		"behind the first term":                      {term: failAfter},
		"before the first entry":                     {entry: failBefore},
		"before the mark of the founding is removed": {entry: failAfter},
	} {
		for also, paused := range map[string]bool{"": false, ", and started without bootstrap": true} {
			t.Run(name+also, func(t *testing.T) {
				config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "bolt"}
				config.open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
					store, err := bolt.Open(dir, logger)
					return cutShort{store, cut.term, cut.entry}, err
				}
				i := newInstance(t, config)
				if err := errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context())); err == nil || !strings.Contains(err.Error(), errCutShort.Error()) {
					t.Fatalf("start = %v, want it to fail with the error of the store", err)
				}
				config.address, config.open = i.raftAddress(), bolt.Open
				cluster := i.directory.ClusterID()
				i.stop(t)
				if paused {
					config.bootstrap = false
					start(t, config).stop(t)
					config.bootstrap = true
				}
				i = start(t, config)
				i.eventually(t, "leading", leading)
				register(t, i, "a")
				if mark, found, err := readMark(i.directory); found || err != nil {
					t.Errorf("readMark = %+v, %v, want no mark", mark, err)
				}
				if now := i.directory.ClusterID(); now != cluster {
					t.Errorf("cluster id = %s, want %s as before", now, cluster)
				}
			})
		}
	}
}

// Nobody has heard of the cluster that the instance was about to found, so it may found
// another one.
func TestAFoundingMayBeCutShortBehindItsMark(t *testing.T) {
	config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "bolt", open: bolt.Open}
	owner := logstore.Owner{RaftID: config.id, Backend: config.backend}
	claimed, err := logstore.Claim(config.directory, owner)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(markFounding(claimed, "unheard-of"), claimed.Close()); err != nil {
		t.Fatal(err)
	}
	i := start(t, config)
	i.eventually(t, "leading", leading)
	register(t, i, "a")
	if mark, found, err := readMark(i.directory); found || err != nil {
		t.Errorf("readMark = %+v, %v, want no mark", mark, err)
	}
}

// A volatile instance loses everything when it ends. Where it was alone, nobody else has any
// of it.
func TestAVolatileInstanceIsBootstrappedAgain(t *testing.T) {
	config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "memory", open: memory.Open, volatile: true}
	for range 2 {
		i := start(t, config)
		i.eventually(t, "leading", leading)
		i.stop(t)
		if err := os.Remove(filepath.Join(config.directory, peersName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// The other instance has what the volatile one lost, which must come back to it.
func TestAVolatileInstanceWithPeersFoundsNoNewCluster(t *testing.T) {
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.backend, config.open, config.volatile = "memory", memory.Open, true
	})
	lost := cluster[0]
	until(t, "the instance has stored its list of peers", lost.hasPeers)
	lost.stop(t)
	config := instanceConfig{id: lost.config.ID, directory: lost.config.Directory, address: lost.raftAddress(),
		bootstrap: true, backend: "memory", open: memory.Open, volatile: true}
	if state, _ := start(t, config).State(); state.Quarantine == "" || state.Member {
		t.Errorf("state = quarantine %q, member %v, want quarantine and no member", state.Quarantine, state.Member)
	}
}

// Older builds, without the mark of a founding, left only the cluster's id and the first
// term.
func TestAFoundingWithoutAMarkBeginsAnewIfNobodyCanRelyOnIt(t *testing.T) {
	for name, test := range map[string]struct {
		term, voted uint64 // 0: none is stored
		founds      bool
	}{
		"the first term is stored":        {term: 1, founds: true},
		"a later term is stored":          {term: 2},
		"a vote is stored":                {term: 1, voted: 1},
		"only the cluster's id is stored": {},
	} {
		t.Run(name, func(t *testing.T) {
			config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "bolt", open: bolt.Open}
			claimed, err := logstore.Claim(config.directory, logstore.Owner{RaftID: config.id, Backend: config.backend})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(claimed.SetClusterID("c1"), claimed.Close()); err != nil {
				t.Fatal(err)
			}
			harm{t: t, dir: config.directory}.store(func(s logstore.Store) error {
				var faults []error
				if test.term > 0 {
					faults = append(faults, s.SetUint64(logstore.TermKey, test.term))
				}
				if test.voted > 0 {
					faults = append(faults, s.SetUint64(logstore.VoteTermKey, test.voted), s.Set(logstore.VoteCandidateKey, []byte("n2")))
				}
				return errors.Join(faults...)
			})
			i := start(t, config)
			if founds := i.raft.LastIndex() > 0; founds != test.founds {
				t.Errorf("founded a cluster = %v, want the opposite", founds)
			}
			if id := i.directory.ClusterID(); id != "c1" {
				t.Errorf("cluster id = %q, want c1", id)
			}
		})
	}
}
