package logstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// A process may be killed between making, or renaming, a file and the sync of its folder.
// Then the next one finds the file, and a power cut does not leave it there.
func TestAFileNameIsMadeDurableBeforeItIsUsed(t *testing.T) {
	for _, backend := range []logstore.Backend{bolted, badgered, walled} {
		t.Run("a start with "+backend.Name, func(t *testing.T) {
			dir := made(t, backend, full)
			logstoretest.Unlisted(t, dir, func() {
				store, err := backend.Open(dir, nil)
				if err == nil {
					_ = store.Close()
				}
				if !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Open: %v", err)
				}
			})
			startable(t, dir, full)
		})
	}
	path := filepath.Join(t.TempDir(), "above", "raft")
	directory := claim(t, path)
	if err := directory.Close(); err != nil {
		t.Fatal(err)
	}
	// A backend that keeps nothing syncs nothing, and the notes beside it count.
	t.Run("a claim on what lies in the directory", func(t *testing.T) {
		logstoretest.Unlisted(t, path, func() {
			directory, err := logstore.Claim(path, owner)
			if err == nil {
				_ = directory.Close()
			}
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Claim: %v", err)
			}
		})
		claim(t, path)
	})
	t.Run("a claim on the directory", func(t *testing.T) {
		unopened := withoutFiles(t, func() error {
			_, err := logstore.Claim(path, owner)
			return err
		})
		if above := filepath.Dir(path); unopened != above {
			t.Errorf("Claim opens %q first, want %q, to sync it", unopened, above)
		}
		claim(t, path)
	})
	t.Run("the name of a directory that a claim makes", func(t *testing.T) {
		above := t.TempDir()
		parent := filepath.Join(above, "parent")
		logstoretest.Unlisted(t, above, func() {
			if err := errors.Join(os.Chmod(above, 0o700), os.Mkdir(parent, 0o300)); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = os.Chmod(parent, 0o700) }()
			directory, err := logstore.Claim(filepath.Join(parent, "raft"), owner)
			if err == nil {
				_ = directory.Close()
			}
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Claim: %v", err)
			}
			if _, err := os.Stat(filepath.Join(parent, "raft")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat of the directory = %v, want none that the next claim finds", err)
			}
		})
	})
	t.Run("a migration that goes on", func(t *testing.T) {
		m := logstore.Migration{From: bolted, To: walled}
		for _, crash := range images(t, made(t, m.From, full), m) {
			if crash.step != logstore.StepSwitched {
				continue
			}
			logstoretest.Unlisted(t, crash.dir, func() {
				if err := migrateDir(t.Context(), t, crash.dir, m); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Migrate: %v", err)
				}
			})
			if _, err := os.Lstat(m.From.Path(crash.dir)); err != nil {
				t.Errorf("the old store has lost its name, although the manifest may still name it: %v", err)
			}
		}
	})
}

// withoutFiles calls do while no file can be opened, and returns the path of the first one
// that do tries to open.
func withoutFiles(t *testing.T, do func() error) string {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	err := do()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	refused, is := errors.AsType[*fs.PathError](err)
	if !is || !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("without files: %v, want EMFILE for a path", err)
	}
	return refused.Path
}

// A note such as the quarantine must not be there after it was dropped, or be missing after
// it was kept, whenever the power is cut.
func TestANoteIsDurableOnceItIsKeptOrDropped(t *testing.T) {
	directory := claim(t, filepath.Join(t.TempDir(), "raft"))
	keep := func() error { return directory.Keep("note", []byte("x")) }
	if err := keep(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"Keep": keep,
		"Drop": func() error { return directory.Drop("note") },
	} {
		logstoretest.Unlisted(t, directory.Path(), func() {
			if err := change(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s in a directory that can't be synced: %v, want fs.ErrPermission", name, err)
			}
		})
	}
}

func TestANoteReplacesALongerOneThatACrashLeftIncomplete(t *testing.T) {
	directory := claim(t, t.TempDir())
	write(t, filepath.Join(directory.Path(), "note.tmp"), "a longer one")
	if err := directory.Keep("note", []byte("short")); err != nil {
		t.Fatal(err)
	}
	if content, _, err := directory.Kept("note"); err != nil || string(content) != "short" {
		t.Errorf("Kept = %q, %v, want short", content, err)
	}
}

// If a later step outlived a power cut and an earlier one did not, the manifest could name a
// store that is not there.
func TestEachStepOfAMigrationIsDurableBeforeTheNext(t *testing.T) {
	for last, unsynced := range map[logstore.Step]string{
		logstore.StepCopied: "migration.tmp", logstore.StepVerified: ".", logstore.StepPlaced: ".", logstore.StepSwitched: ".",
	} {
		t.Run("after "+string(last), func(t *testing.T) {
			dir := made(t, bolted, full)
			var steps []logstore.Step
			m := logstore.Migration{From: bolted, To: walled, Watch: func(step logstore.Step, _ string) {
				if steps = append(steps, step); step != last {
					return
				}
				if err := os.Chmod(filepath.Join(dir, unsynced), 0o300); err != nil {
					t.Error(err)
				}
			}}
			logstoretest.Unlisted(t, dir, func() {
				if err := os.Chmod(dir, 0o700); err != nil { // until the step
					t.Fatal(err)
				}
				if err := migrateDir(t.Context(), t, dir, m); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Migrate: %v, want fs.ErrPermission", err)
				}
				_ = os.Chmod(filepath.Join(dir, unsynced), 0o700) // for who removes it
			})
			if !slices.Contains(steps, last) || steps[len(steps)-1] != last {
				t.Errorf("steps = %q, want none after %q", steps, last)
			}
			startable(t, dir, full)
		})
	}
}
