package logstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

func TestMigrateMovesEverything(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		for name, c := range map[string]contents{
			"a log with a gap":     full,
			"a log without a vote": {ranges: [][2]uint64{{1, 40}}},
			"a term without a log": {stable: true},
			"an empty store":       {},
		} {
			t.Run(name, func(t *testing.T) {
				dir := made(t, from, c)
				var steps []logstore.Step
				err := migrateDir(t.Context(), t, dir, logstore.Migration{From: from, To: to, Watch: func(step logstore.Step, what string) {
					if !slices.Contains(steps, step) {
						steps = append(steps, step)
					}
				}})
				if err != nil {
					t.Fatal(err)
				}
				if got := startable(t, dir, c); got != to.Name {
					t.Errorf("backend after the migration = %q, want %q", got, to.Name)
				}
				wantOnly(t, dir, "log."+to.Name)
				want := []logstore.Step{logstore.StepCopied, logstore.StepVerified, logstore.StepPlaced, logstore.StepSwitched, logstore.StepSetAside, logstore.StepRemoved}
				if len(c.ranges) == 0 {
					want = want[1:]
				}
				if !slices.Equal(steps, want) {
					t.Errorf("steps = %q, want %q", steps, want)
				}
				// It can be migrated back.
				if err := migrateDir(t.Context(), t, dir, logstore.Migration{From: to, To: from}); err != nil {
					t.Fatal(err)
				}
				if got := startable(t, dir, c); got != from.Name {
					t.Errorf("backend after migrating back = %q, want %q", got, from.Name)
				}
				wantOnly(t, dir, "log."+from.Name)
			})
		}
	})
}

// image is a copy of the directory as a crash after a step leaves it.
type image struct {
	step logstore.Step
	dir  string
}

// images runs a migration and takes a copy of the directory after every step.
func images(t *testing.T, dir string, m logstore.Migration) (taken []image) {
	t.Helper()
	m.Watch = func(step logstore.Step, _ string) {
		taken = append(taken, image{step, logstoretest.Image(t, dir)})
	}
	if err := migrateDir(t.Context(), t, dir, m); err != nil {
		t.Fatal(err)
	}
	return taken
}

func TestAMigrationSurvivesACrashAtAnyStep(t *testing.T) {
	switched := []logstore.Step{logstore.StepSwitched, logstore.StepSetAside, logstore.StepRemoved}
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		m := logstore.Migration{From: from, To: to}
		taken := images(t, made(t, from, full), m)
		if len(taken) < 7 { // with two chunks
			t.Errorf("steps of the migration = %d, want at least 7", len(taken))
		}
		for at, crash := range taken {
			t.Run(fmt.Sprintf("%d, %s", at, crash.step), func(t *testing.T) {
				want := from.Name
				if slices.Contains(switched, crash.step) {
					want = to.Name
				}
				if got := startable(t, crash.dir, full); got != want {
					t.Errorf("backend after a crash = %q, want %q", got, want)
				}
				err := migrateDir(t.Context(), t, crash.dir, m)
				if done := crash.step == logstore.StepRemoved; done != errors.Is(err, logstore.ErrOtherBackend) || err != nil && !done {
					t.Errorf("the same migration again = %v, want success", err)
				}
				if got := startable(t, crash.dir, full); got != to.Name {
					t.Errorf("backend in the end = %q, want %q", got, to.Name)
				}
				wantOnly(t, crash.dir, "log."+to.Name)
			})
		}
	})
}

// A store whose removal was interrupted must not be taken for a whole store.
func TestAnInterruptedRemovalIsCompleted(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		m := logstore.Migration{From: from, To: to}
		for _, crash := range images(t, made(t, from, full), m) {
			if crash.step != logstore.StepSetAside {
				continue
			}
			left := from.Path(filepath.Join(crash.dir, "migration.tmp"))
			if paths, _ := filepath.Glob(filepath.Join(left, "*")); len(paths) > 0 {
				left = paths[0]
			}
			if err := os.Truncate(left, 100); err != nil {
				t.Fatal(err)
			}
			startable(t, crash.dir, full)
			if err := migrateDir(t.Context(), t, crash.dir, m); err != nil {
				t.Fatal(err)
			}
			startable(t, crash.dir, full)
			wantOnly(t, crash.dir, "log."+to.Name)
		}
	})
}

func TestAnInterruptedMigrationChangesNothing(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		dir := made(t, from, full)
		ctx, cancel := context.WithCancel(t.Context())
		err := migrateDir(ctx, t, dir, logstore.Migration{From: from, To: to, Watch: func(logstore.Step, string) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Migrate: %v", err)
		}
		if got := startable(t, dir, full); got != from.Name {
			t.Errorf("backend = %q, want %q", got, from.Name)
		}
		wantOnly(t, dir, "log."+from.Name)
	})
}

// liar is a backend whose store changes entries that it stores.
func liar(b logstore.Backend, lose func(*raft.Log)) logstore.Backend {
	open := b.Open
	b.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := open(dir, logger)
		return &lossy{store, lose}, err
	}
	return b
}

type lossy struct {
	logstore.Store
	lose func(*raft.Log)
}

func (l *lossy) StoreLogs(logs []*raft.Log) error {
	for _, entry := range logs {
		l.lose(entry)
	}
	return l.Store.StoreLogs(logs)
}

func TestACopyThatDiffersIsRefused(t *testing.T) {
	for name, lose := range map[string]func(*raft.Log){
		"the data":         func(e *raft.Log) { e.Data = nil },
		"one byte of data": func(e *raft.Log) { e.Data[len(e.Data)-1]++ },
		"the extensions":   func(e *raft.Log) { e.Extensions = nil },
		"the time":         func(e *raft.Log) { e.AppendedAt = e.AppendedAt.Truncate(time.Second) },
		"the type":         func(e *raft.Log) { e.Type++ },
		"the term":         func(e *raft.Log) { e.Term-- },
		"the index":        func(e *raft.Log) { e.Index += 5000 },
		"the next index":   func(e *raft.Log) { e.Index = 1401 },
	} {
		t.Run(name, func(t *testing.T) {
			dir := made(t, bolted, full)
			to := liar(badgered, func(e *raft.Log) {
				if e.Index == 1309 { // which has data and extensions
					lose(e)
				}
			})
			err := migrateDir(t.Context(), t, dir, logstore.Migration{From: bolted, To: to})
			if err == nil || !strings.Contains(err.Error(), "not like the log") {
				t.Errorf("Migrate: %v", err)
			}
			startable(t, dir, full)
			wantOnly(t, dir, "log.bolt")
		})
	}
}

// forgetful is a store that does not keep the value of one key.
type forgetful struct {
	logstore.Store
	key []byte
}

func (f *forgetful) Set(key, value []byte) error {
	if bytes.Equal(key, f.key) {
		return nil
	}
	return f.Store.Set(key, value)
}

func (f *forgetful) SetUint64(key []byte, value uint64) error {
	if bytes.Equal(key, f.key) {
		value++
	}
	return f.Store.SetUint64(key, value)
}

func TestACopyOfAnotherTermOrVoteIsRefused(t *testing.T) {
	for _, key := range [][]byte{logstore.TermKey, logstore.VoteTermKey, logstore.VoteCandidateKey} {
		t.Run(string(key), func(t *testing.T) {
			dir := made(t, bolted, full)
			to := walled
			to.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
				store, err := walled.Open(dir, logger)
				return &forgetful{store, key}, err
			}
			err := migrateDir(t.Context(), t, dir, logstore.Migration{From: bolted, To: to})
			if err == nil || !strings.Contains(err.Error(), "not like the log: "+string(key)) {
				t.Errorf("Migrate: %v, want an error about %s", err, key)
			}
			startable(t, dir, full)
			wantOnly(t, dir, "log.bolt")
		})
	}
}

func TestMigrateHoldsOnlyAChunkInMemory(t *testing.T) {
	dir := made(t, bolted, full)
	to := badgered
	largest, size := 0, 0
	to.Open = func(dir string, logger *slog.Logger) (logstore.Store, error) {
		store, err := badger.Open(dir, logger)
		return &measured{store, &largest, &size}, err
	}
	if err := migrateDir(t.Context(), t, dir, logstore.Migration{From: bolted, To: to}); err != nil {
		t.Fatal(err)
	}
	if largest > 1024 || size > 1<<20+largeEntry {
		t.Errorf("largest chunk = %d entries or %d bytes, want at most 1024 and %d", largest, size, 1<<20+largeEntry)
	}
}

type measured struct {
	logstore.Store
	largest, size *int
}

func (m *measured) StoreLogs(logs []*raft.Log) error {
	size := 0
	for _, entry := range logs {
		size += len(entry.Data)
	}
	*m.largest, *m.size = max(*m.largest, len(logs)), max(*m.size, size)
	return m.Store.StoreLogs(logs)
}

func TestMigrateRefuses(t *testing.T) {
	volatile := logstore.Backend{Name: "memory", Volatile: true}
	tests := map[string]struct {
		migration logstore.Migration
		err       error
		says      string
	}{
		"a directory of another backend":       {logstore.Migration{From: badgered, To: walled}, logstore.ErrOtherBackend, `"bolt", not by "badger"`},
		"a directory that is migrated already": {logstore.Migration{From: badgered, To: bolted}, logstore.ErrOtherBackend, "nothing to do"},
		"the same backend twice":               {logstore.Migration{From: bolted, To: bolted}, nil, "itself"},
		"a volatile backend":                   {logstore.Migration{From: bolted, To: volatile}, nil, "nothing on disk"},
		"from a volatile backend":              {logstore.Migration{From: volatile, To: bolted}, nil, "nothing on disk"},
		"a directory without a store":          {logstore.Migration{From: bolted, To: badgered}, logstore.ErrNoStore, "log.bolt"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := made(t, bolted, full)
			if errors.Is(test.err, logstore.ErrNoStore) {
				if err := os.Remove(bolted.Path(dir)); err != nil {
					t.Fatal(err)
				}
			}
			before := logstoretest.Tree(t, filepath.Join(dir, "instance.json"))
			err := migrateDir(t.Context(), t, dir, test.migration)
			if err == nil || test.err != nil && !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Migrate: %v, want %v saying %s", err, test.err, test.says)
			}
			if after := logstoretest.Tree(t, filepath.Join(dir, "instance.json")); after != before {
				t.Error("a refused migration changed the manifest")
			}
			if errors.Is(test.err, logstore.ErrNoStore) {
				wantOnly(t, dir)
				return
			}
			startable(t, dir, full)
			wantOnly(t, dir, "log.bolt")
		})
	}
}

// beside puts a store of another backend into a directory.
func beside(t *testing.T, dir string, backend logstore.Backend, c contents) {
	t.Helper()
	store, err := backend.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.writeTo(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAStoreInThePlaceOfTheNewOne(t *testing.T) {
	behind := contents{ranges: [][2]uint64{{37, 600}}}
	tests := map[string]struct {
		prepare func(t *testing.T, dir string, from, to logstore.Backend)
		refused bool
	}{
		"a copy of the log is removed":      {prepare: func(t *testing.T, dir string, _, to logstore.Backend) { beside(t, dir, to, full) }},
		"a store that is behind is removed": {prepare: func(t *testing.T, dir string, _, to logstore.Backend) { beside(t, dir, to, behind) }},
		"a store that was never written is removed": {prepare: func(t *testing.T, dir string, _, to logstore.Backend) {
			if to.Name == "bolt" {
				write(t, to.Path(dir), "")
			} else if err := os.Mkdir(to.Path(dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		"half a store in the migration folder is removed": {prepare: func(t *testing.T, dir string, _, to logstore.Backend) {
			folder := filepath.Join(dir, "migration.tmp")
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, to.Path(folder), "half")
		}},
		"a store that reaches further is refused": {refused: true, prepare: func(t *testing.T, dir string, _, to logstore.Backend) {
			beside(t, dir, to, contents{ranges: [][2]uint64{{37, 1401}}, stable: true})
		}},
		"a store of a later term is refused": {refused: true, prepare: func(t *testing.T, dir string, _, to logstore.Backend) {
			beside(t, dir, to, behind)
			store, err := to.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(store.SetUint64(logstore.TermKey, 41), store.Close()); err != nil {
				t.Fatal(err)
			}
		}},
		"a store that can't be read is refused": {refused: true, prepare: func(t *testing.T, dir string, _, to logstore.Backend) {
			path := to.Path(dir)
			if inFolder, ok := map[string]string{"badger": "MANIFEST", "wal": "segments.json"}[to.Name]; ok {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
				path = filepath.Join(path, inFolder)
			}
			write(t, path, strings.Repeat("something else\n", 1000))
		}},
		"a store that reaches beyond the log but not beyond the snapshots is removed": {prepare: func(t *testing.T, dir string, _, to logstore.Backend) {
			beside(t, dir, to, contents{ranges: [][2]uint64{{37, 1500}}, stable: true})
			if err := os.MkdirAll(filepath.Join(dir, "snapshots", "16-1501-1700000000000"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	}
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				dir := made(t, from, full)
				test.prepare(t, dir, from, to)
				inTheWay := to.Path(dir)
				var cleared bool
				err := migrateDir(t.Context(), t, dir, logstore.Migration{From: from, To: to, Watch: func(step logstore.Step, _ string) {
					cleared = cleared || step == logstore.StepCleared
				}})
				if !test.refused {
					if err != nil || !cleared {
						t.Errorf("Migrate = %v, reported what it removed = %v, want success and true", err, cleared)
					}
					if got := startable(t, dir, full); got != to.Name {
						t.Errorf("backend = %q, want %q", got, to.Name)
					}
					return
				}
				if !errors.Is(err, logstore.ErrInTheWay) || !strings.Contains(err.Error(), inTheWay) {
					t.Errorf("Migrate = %v, want ErrInTheWay naming %s", err, inTheWay)
				}
				if _, err := os.Lstat(inTheWay); err != nil {
					t.Errorf("the refused store was removed: %v", err)
				}
				if got := startable(t, dir, full); got != from.Name {
					t.Errorf("backend = %q, want %q", got, from.Name)
				}
			})
		}
	})
}

// An instance may have gone on with the new backend before somebody sees to what is
// left of the old one, and with the old one before a migration is tried again.
func TestALeftoverMayBeOutdated(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		m := logstore.Migration{From: from, To: to}
		grown := contents{ranges: append(slices.Clone(full.ranges), [2]uint64{1401, 1500}), stable: true}
		for _, crash := range images(t, made(t, from, full), m) {
			if crash.step != logstore.StepPlaced && crash.step != logstore.StepSwitched {
				continue
			}
			backend := from
			if crash.step == logstore.StepSwitched {
				backend = to
			}
			beside(t, crash.dir, backend, contents{ranges: [][2]uint64{{1401, 1500}}})
			if err := migrateDir(t.Context(), t, crash.dir, m); err != nil {
				t.Errorf("migration after a crash at %q = %v, want success", crash.step, err)
			}
			startable(t, crash.dir, grown)
			wantOnly(t, crash.dir, "log."+to.Name)
		}
	})
}

// An operator may have removed the temporary folder, or have put a store there.
func TestAnOldStoreBesideTheNewOneIsRemovedUnlessItHasMore(t *testing.T) {
	more := contents{ranges: [][2]uint64{{37, 1401}}, stable: true}
	eachPair(t, func(t *testing.T, from, to logstore.Backend) {
		for name, test := range map[string]struct {
			old contents
			err error
		}{
			"it has as much": {old: full},
			"it has more":    {old: more, err: logstore.ErrInTheWay},
		} {
			t.Run(name, func(t *testing.T) {
				dir := made(t, to, full)
				beside(t, dir, from, test.old)
				if err := migrateDir(t.Context(), t, dir, logstore.Migration{From: from, To: to}); !errors.Is(err, test.err) {
					t.Errorf("Migrate: %v, want %v", err, test.err)
				}
				startable(t, dir, full)
				if test.err == nil {
					wantOnly(t, dir, "log."+to.Name)
				} else {
					wantOnly(t, dir, "log."+from.Name, "log."+to.Name)
				}
			})
		}
	})
}

func TestLeftoversListsWhatAMigrationLeft(t *testing.T) {
	m := logstore.Migration{From: bolted, To: badgered}
	for _, crash := range images(t, made(t, bolted, full), m) {
		directory, err := logstore.ClaimReadOnly(crash.dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, path := range directory.Leftovers([]logstore.Backend{bolted, badgered}) {
			got = append(got, filepath.Base(path))
		}
		if err := directory.Close(); err != nil {
			t.Fatal(err)
		}
		want := map[logstore.Step][]string{
			logstore.StepPlaced:   {"migration.tmp", "log.badger"},
			logstore.StepSwitched: {"migration.tmp", "log.bolt"},
			logstore.StepRemoved:  nil,
		}
		if names, known := want[crash.step]; known && !slices.Equal(got, names) || !known && !slices.Equal(got, []string{"migration.tmp"}) {
			t.Errorf("leftovers after %q = %q, want %q", crash.step, got, want[crash.step])
		}
	}
}

func TestARefusedBackendNamesTheFullMigrateCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's here")
	first, err := logstore.Claim(dir, owner)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = logstore.Claim(dir, logstore.Owner{RaftID: "node0", Backend: "badger"})
	want := "`nodesmetadata storage migrate --from bolt --to badger --raft_dir '" + strings.ReplaceAll(dir, "'", `'\''`) + "'`"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Claim = %v, want an error that names %s", err, want)
	}
}
