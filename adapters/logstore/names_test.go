package logstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	for name, unsynced := range map[string]string{
		// A backend that keeps nothing syncs nothing, and the notes beside it count.
		"a claim on what lies in the directory": path,
		"a claim on the directory":              filepath.Dir(path),
	} {
		t.Run(name, func(t *testing.T) {
			logstoretest.Unlisted(t, unsynced, func() {
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
	}
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
