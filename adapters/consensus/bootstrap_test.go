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
func TestALostStateIsNotBootstrappedAgain(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"where it knows the others":        func(string) error { return nil },
		"where that is lost too":           os.Remove,
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

// cutShort is a store with which a founding ends at one of its two writes.
type cutShort struct {
	logstore.Store
	term, entry func(write func() error) error // nil: it is written
}

var errCutShort = errors.New("cut short")

func before(func() error) error { return errCutShort }

func behind(write func() error) error { return errors.Join(write(), errCutShort) }

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

// Nobody has heard of it by then, whether or not it is started in between without being told
// to found.
func TestAFoundingMayBeCutShortAtEachWriteToTheStore(t *testing.T) {
	for name, cut := range map[string]cutShort{
		"before the first term":   {term: before},
		"behind the first term":   {term: behind},
		"before the first entry":  {entry: before},
		"before its mark is gone": {entry: behind},
	} {
		for also, paused := range map[string]bool{"": false, ", and started without": true} {
			t.Run(name+also, func(t *testing.T) {
				config := instanceConfig{id: "n1", directory: t.TempDir(), bootstrap: true, backend: "bolt"}
				config.open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
					store, err := bolt.Open(dir, logger)
					return cutShort{store, cut.term, cut.entry}, err
				}
				i := newInstance(t, config)
				if err := errors.Join(i.Claim(t.Context()), i.demux.Open(t.Context()), i.Open(t.Context())); err == nil || !strings.Contains(err.Error(), errCutShort.Error()) {
					t.Fatalf("error %v", err)
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
					t.Errorf("cluster %s was %s", now, cluster)
				}
			})
		}
	}
}

// Of the cluster that it was about to found nobody has heard, so another one may be founded.
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

// It loses everything whenever it ends, and where it was alone nobody is left who has any of it.
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

// The others have what it lost, and it comes back to them.
func TestWhatKeepsNothingIsNotFoundedAnewBesideOthers(t *testing.T) {
	cluster := startCluster(t, 2, func(config *instanceConfig) {
		config.backend, config.open, config.volatile = "memory", memory.Open, true
	})
	lost := cluster[0]
	until(t, "it knows the other one", lost.hasPeers)
	lost.stop(t)
	config := instanceConfig{id: lost.config.ID, directory: lost.config.Directory, address: lost.raftAddress(),
		bootstrap: true, backend: "memory", open: memory.Open, volatile: true}
	if state, _ := start(t, config).State(); state.Quarantine == "" || state.Member {
		t.Errorf("quarantine %q, a member: %v", state.Quarantine, state.Member)
	}
}

// Builds from before the mark of a founding left only the cluster's id and the first term.
func TestAFoundingWithoutAMarkBeginsAnewIfNobodyCanRelyOnIt(t *testing.T) {
	for name, test := range map[string]struct {
		term, voted uint64 // 0: none is stored
		founds      bool
	}{
		"it has the first term":         {term: 1, founds: true},
		"it has a later term":           {term: 2},
		"it has voted":                  {term: 1, voted: 1},
		"it has nothing but its number": {},
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
				t.Errorf("it founds: %v", founds)
			}
			if id := i.directory.ClusterID(); id != "c1" {
				t.Errorf("it belongs to %q", id)
			}
		})
	}
}
