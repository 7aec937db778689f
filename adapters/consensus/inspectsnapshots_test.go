package consensus

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// The path of the directory must not be used as a pattern, which other directories could
// match.
func TestRemainsInFoldersOfOtherInstancesAreKept(t *testing.T) {
	parent := t.TempDir()
	leftover := func(dir string) string { return filepath.Join(parent, dir, "snapshots", "9-99-1000.tmp") }
	for _, dir := range []string{"n[12]", "n1"} {
		if err := os.MkdirAll(leftover(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	directory, err := logstore.Claim(t.TempDir(), logstore.Owner{RaftID: "n1", Backend: "bolt"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	i := newInspection(directory)
	i.Directory = filepath.Join(parent, "n[12]")
	i.readSnapshots()
	mustEqual(t, "the leftovers", i.Leftovers, []string{leftover("n[12]")})
}

// Such a folder may be the file system's own, or a copy that somebody made. An instance that
// took it for damage would set all its data aside, and a cluster of such instances would
// lose everything.
func TestAFolderThatIsNoSnapshotIsNoDamage(t *testing.T) {
	dir, _ := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, dir, durableBackends[0])
	h := harm{t, dir, before}
	folder := filepath.Join(dir, "snapshots")
	for _, name := range []string{"lost+found", "@eaDir", ".snapshot", "0-1", "copies"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(h.snapshot(0, "")+"-copy", os.DirFS(h.snapshot(0, ""))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "1-2-1000"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	there := namesIn(t, folder)
	mustEqual(t, "the report", inspectDirectory(t, dir, durableBackends[0]), before)

	i := start(t, instanceConfig{id: "n1", directory: dir, open: durableBackends[0].Open, backend: durableBackends[0].Name})
	i.eventually(t, "leading", leading)
	i.stop(t)
	mustEqual(t, "the names after a start", namesIn(t, folder), there)
}

// Files that remain when an instance ends while it makes or removes a snapshot are no
// damage. The next start removes them.
func TestRemainsOfSnapshotsAreRemovedAtTheStart(t *testing.T) {
	dir, last := usedDirectory(t, durableBackends[0])
	before := inspectDirectory(t, dir, durableBackends[0])
	h := harm{t, dir, before}
	folder := filepath.Join(dir, "snapshots")
	whole := namesIn(t, folder)
	for _, name := range []string{"1-2-1000", "1-3-1000", "1-4-1000", "9-99-1000.tmp"} {
		if err := os.CopyFS(filepath.Join(folder, name), os.DirFS(h.snapshot(1, ""))); err != nil {
			t.Fatal(err)
		}
	}
	h.remove(filepath.Join(folder, "1-2-1000", "meta.json"))
	h.remove(filepath.Join(folder, "1-3-1000", "meta.json"))
	h.remove(filepath.Join(folder, "1-3-1000", "state.bin"))
	h.remove(filepath.Join(folder, "1-4-1000", "state.bin"))
	h.rewrite(filepath.Join(folder, "1-4-1000", "meta.json"), func(f *description) { f.ID, f.Term, f.Index = "1-4-1000", 1, 4 })
	if err := os.WriteFile(filepath.Join(folder, "probe-1.tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	found := inspectDirectory(t, dir, durableBackends[0])
	if len(found.Faults) > 0 {
		t.Errorf("faults = %v, want none", found.Faults)
	}
	var left []string
	for _, path := range found.Leftovers {
		left = append(left, filepath.Base(path))
	}
	slices.Sort(left)
	mustEqual(t, "the leftovers", left, []string{"1-2-1000", "1-3-1000", "1-4-1000", "9-99-1000.tmp", "probe-1.tmp"})

	var log strings.Builder
	i := start(t, instanceConfig{id: "n1", directory: dir, open: durableBackends[0].Open, backend: durableBackends[0].Name,
		logger: slog.New(slog.NewTextHandler(&log, nil))})
	mustEqual(t, "the names after a start", namesIn(t, folder), whole)
	i.eventually(t, "at the revision from before", func(s ports.LocalState) bool { return s.View.Revision() >= last.Revision })
	i.stop(t)
	if said := strings.Count(log.String(), "removed what was left of a snapshot"); said != 5 {
		t.Errorf("log lines about removed remains = %d, want 5: %s", said, &log)
	}
}

// An instance must not start with a membership that can't be verified: two wrong bits once
// made one of three voters the only one.
func TestAMembershipThatIsDamagedIsHealed(t *testing.T) {
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = eagerSnapshots })
	leader, damaged := cluster[0], cluster[2]
	leader.runPromotions(t)
	folder := filepath.Join(damaged.config.Directory, "snapshots")
	var change domain.Change
	until(t, "each instance has a snapshot", func() bool {
		change = register(t, leader, "a")
		change = register(t, leader, "b")
		_, err := leader.Propose(within(t), domain.Deregister{ID: "b"})
		found, _ := filepath.Glob(filepath.Join(folder, "*[0-9]", "meta.json"))
		return err == nil && len(found) == 2
	})
	damaged.waitForRevision(t, change.Revision)
	damaged.stop(t)
	metas, err := filepath.Glob(filepath.Join(folder, "*", "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, meta := range metas {
		raw, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range cluster[:2] {
			raw = bytes.ReplaceAll(raw, []byte(`"Suffrage":0,"ID":"`+other.config.ID), []byte(`"Suffrage":1,"ID":"`+other.config.ID))
		}
		if err := os.WriteFile(meta, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damaged = restart(t, damaged, nil)
	if state, _ := damaged.State(); state.Leading || !strings.Contains(state.Quarantine, "damaged-") {
		t.Errorf("state at the start = %+v, want quarantine", state)
	}
	damaged.eventually(t, "a voter out of quarantine", func(s ports.LocalState) bool {
		self, _ := s.Roster.Find(damaged.config.ID)
		return s.Quarantine == "" && self.Suffrage == domain.Voter
	})
}
