package consensus

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// describe changes a snapshot's description, and gives it a correct checksum.
func (h harm) describe(which int, change func(*snapshotDescription)) {
	h.t.Helper()
	h.rewrite(h.snapshot(which, "meta.json"), change)
}

func (h harm) rewrite(path string, change func(*snapshotDescription)) {
	h.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	f, err := decodeDescription(raw)
	if err != nil {
		h.t.Fatal(err)
	}
	change(&f)
	raw, err = f.encode()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func someDescription() snapshotDescription {
	return snapshotDescription{
		SnapshotMeta: raft.SnapshotMeta{
			Version: 1, ID: "3-44-1700000000000", Index: 44, Term: 3, Peers: []byte("old"),
			Configuration: raft.Configuration{Servers: []raft.Server{
				{Suffrage: raft.Voter, ID: "n1", Address: "10.0.0.1:8008"},
				{Suffrage: raft.Nonvoter, ID: "n2", Address: "<n2>:8008"},
			}},
			ConfigurationIndex: 7, Size: 4321,
		},
		CRC: []byte{1, 2, 3, 4, 5, 6, 7, 8},
	}
}

func TestGoldenDescriptions(t *testing.T) {
	f := someDescription()
	for name, encode := range map[string]func() ([]byte, error){
		"description-v1-plain.golden":  f.encodeUnsealed, // as raft.FileSnapshotStore writes it
		"description-v1-sealed.golden": f.encode,
	} {
		raw, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := decodeDescription(golden(t, name, raw))
		if err != nil {
			t.Errorf("decodeDescription of %s = %v, want success", name, err)
		}
		mustEqual(t, name, read, f)
	}
}

func TestADamagedDescriptionIsRefused(t *testing.T) {
	f := someDescription()
	sealed, err := f.encode()
	if err != nil {
		t.Fatal(err)
	}
	for at := range sealed {
		for bit := range 8 {
			spoilt := bytes.Clone(sealed)
			spoilt[at] ^= 1 << bit
			if got, err := decodeDescription(spoilt); err == nil {
				t.Errorf("bit %d of byte %d changed: decodeDescription(%s) = %+v, want an error", bit, at, spoilt, got)
			}
		}
	}
	for end := range sealed {
		if got, err := decodeDescription(sealed[:end]); err == nil {
			t.Errorf("decodeDescription(%q) = %+v, want an error", sealed[:end], got)
		}
	}
}

// There is only one way to write a description without a checksum.
func TestADescriptionWithoutAChecksumIsWrittenAsEver(t *testing.T) {
	plain, err := someDescription().encodeUnsealed()
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string][2]string{
		"a member with another name":        {`"Servers"`, `"Sesvers"`},
		"a name in lower case":              {`"Servers"`, `"servers"`},
		"version zero":                      {`"Version":1`, `"Version":0`},
		"a later version":                   {`"Version":1`, `"Version":3`},
		"a member in place of the checksum": {`"}` + "\n", `","Checksun":"00000000"}` + "\n"},
	} {
		spoilt := strings.Replace(string(plain), spoil[0], spoil[1], 1)
		if got, err := decodeDescription([]byte(spoilt)); spoilt == string(plain) || err == nil {
			t.Errorf("%s: decodeDescription(%s) = %+v, want an error", name, spoilt, got)
		}
	}
	// A later build may add members, if the checksum covers them.
	body := strings.TrimSuffix(string(plain), "}\n") + `,"More":1`
	if _, err := decodeDescription(sealDescription([]byte(body))); err != nil {
		t.Error(err)
	}
}

func newSnapshot(t *testing.T, store raft.SnapshotStore, index uint64, content string) (id string) {
	t.Helper()
	_, transport := raft.NewInmemTransport("")
	sink, err := store.Create(1, index, 2, someDescription().Configuration, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(sink, content); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

// A disk on which snapshots fail must not be filled with their incomplete files.
func TestASnapshotThatCouldNotBeWrittenLeavesNothing(t *testing.T) {
	store := openTestSnapshots(t, t.TempDir())
	for name, fails := range map[string]func(*snapshotSink) error{
		"the state can't be written":       func(s *snapshotSink) error { return s.state.Close() },
		"the description can't be written": func(s *snapshotSink) error { return os.MkdirAll(filepath.Join(s.path, snapshotMeta, "x"), 0o700) },
		"the folder can't be renamed":      func(s *snapshotSink) error { return os.MkdirAll(filepath.Join(store.folder, s.ID(), "x"), 0o700) },
	} {
		sink, err := store.Create(1, 9, 2, someDescription().Configuration, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(sink, "state"); err != nil {
			t.Fatal(err)
		}
		if err := fails(sink.(*snapshotSink)); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err == nil || !strings.Contains(err.Error(), sink.ID()) {
			t.Errorf("%s: Close = %v, want an error that names the snapshot", name, err)
		}
		inTheWay := filepath.Join(store.folder, sink.ID())
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		if left := namesIn(t, store.folder); len(left) != 0 {
			t.Errorf("%s: files left = %q, want none", name, left)
		}
	}
}

// If a snapshot could not be completed, raft goes on with its log.
func TestASnapshotWhoseNameMayBeLostIsNotThere(t *testing.T) {
	store := openTestSnapshots(t, t.TempDir())
	sink, err := store.Create(1, 9, 2, someDescription().Configuration, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	logstoretest.Unlisted(t, store.folder, func() {
		if err := sink.Close(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Close = %v, want fs.ErrPermission", err)
		}
	})
	if list, err := store.List(); err != nil || len(list) > 0 {
		t.Errorf("List = %+v, %v, want no snapshot", list, err)
	}
}

func openTestSnapshots(t *testing.T, dir string) *snapshotStore {
	t.Helper()
	store, err := openSnapshots(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func namesIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// Builds that are older than snapshotStore use raft.FileSnapshotStore.
func TestSnapshotsAreReadByBuildsFromBeforeAndTheOtherWayRound(t *testing.T) {
	dir := t.TempDir()
	theirs, err := raft.NewFileSnapshotStore(dir, retainedSnapshots, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ours := openTestSnapshots(t, dir)
	a, b := newSnapshot(t, ours, 10, "ours"), newSnapshot(t, theirs, 20, "theirs")
	for name, store := range map[string]raft.SnapshotStore{"ours": ours, "theirs": theirs} {
		list, err := store.List()
		if err != nil || len(list) != 2 || list[0].ID != b || list[1].ID != a {
			t.Fatalf("%s: List = %v, %v, want two snapshots, the newest first", name, list, err)
		}
		for id, want := range map[string]string{a: "ours", b: "theirs"} {
			meta, state, err := store.Open(id)
			if err != nil {
				t.Fatalf("%s: Open(%s) = %v, want success", name, id, err)
			}
			content, err := io.ReadAll(state)
			if err != nil || string(content) != want || state.Close() != nil {
				t.Errorf("%s: content = %q, %v, want that of the snapshot", name, content, err)
			}
			mustEqual(t, name, meta.Configuration, someDescription().Configuration)
			if meta.ConfigurationIndex != 1 || meta.Size != int64(len(want)) || meta.Term != 2 {
				t.Errorf("%s: meta = %+v, want configuration index 1, term 2 and the right size", name, meta)
			}
		}
	}
}

// The log is cut behind a snapshot at the start too, so the snapshot's name must be durable
// by then.
func TestTheNameOfASnapshotIsMadeDurableBeforeItIsUsed(t *testing.T) {
	dir := t.TempDir()
	open := func() error {
		_, err := openSnapshots(dir, nil, slog.New(slog.DiscardHandler))
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	for _, unsynced := range []string{filepath.Join(dir, logstore.SnapshotsFolder), dir} {
		logstoretest.Unlisted(t, unsynced, func() {
			if err := open(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("open without sync of %s = %v, want fs.ErrPermission", unsynced, err)
			}
		})
	}
}

func TestASnapshotIsThereWhenItIsClosed(t *testing.T) {
	dir := t.TempDir()
	store := openTestSnapshots(t, dir)
	sink, err := store.Create(1, 10, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := store.List(); err != nil || len(list) != 0 {
		t.Errorf("List before Close = %v, %v, want no snapshot", list, err)
	}
	if err := sink.Cancel(); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Errorf("Close of a cancelled snapshot = %v, want no error", err)
	}
	if left := namesIn(t, store.folder); len(left) > 0 {
		t.Errorf("files left = %q, want none", left)
	}
	if _, err := store.Create(2, 10, 2, raft.Configuration{}, 1, nil); err == nil {
		t.Error("Create with an unknown version = nil error, want an error")
	}
	id := newSnapshot(t, store, 11, "x")
	mustEqual(t, "the files of the snapshot", namesIn(t, filepath.Join(store.folder, id)), []string{"meta.json", "state.bin"})
}

func TestADamagedSnapshotIsNotGiven(t *testing.T) {
	for _, file := range []string{"meta.json", "state.bin"} {
		dir := t.TempDir()
		store := openTestSnapshots(t, dir)
		older, newer := newSnapshot(t, store, 10, strings.Repeat("x", 100)), newSnapshot(t, store, 20, strings.Repeat("y", 100))
		harm{t: t, dir: dir}.flip(filepath.Join(store.folder, newer, file), 40)
		if _, _, err := store.Open(newer); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("Open with damage in %s = %v, want an error that names the file", file, err)
		}
		list, err := store.List()
		if err != nil || list[len(list)-1].ID != older {
			t.Errorf("List with damage in %s = %v, %v, want the older snapshot last", file, list, err)
		}
	}
}

// Everything older than the last two snapshots is removed, incomplete snapshots too.
func TestOldSnapshotsAreRemoved(t *testing.T) {
	store := openTestSnapshots(t, t.TempDir())
	first := newSnapshot(t, store, 10, "1")
	if err := os.Remove(filepath.Join(store.folder, first, "meta.json")); err != nil {
		t.Fatal(err)
	}
	second := newSnapshot(t, store, 20, "2")
	third := newSnapshot(t, store, 30, "3")
	mustEqual(t, "the snapshots before there are two newer ones", namesIn(t, store.folder), []string{first, second, third})
	stranger := filepath.Join(store.folder, "note")
	if err := os.Mkdir(stranger, 0o700); err != nil {
		t.Fatal(err)
	}
	fourth := newSnapshot(t, store, 40, "4")
	mustEqual(t, "the snapshots at the end", namesIn(t, store.folder), []string{third, fourth, "note"})
}

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
	h.rewrite(filepath.Join(folder, "1-4-1000", "meta.json"), func(f *snapshotDescription) { f.ID, f.Term, f.Index = "1-4-1000", 1, 4 })
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
