package logstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// An operator may make the directory for an instance, in a folder that is none of its business.
func TestClaimOfADirectoryInAFolderThatIsClosed(t *testing.T) {
	for name, may := range map[string]fs.FileMode{"to writing and listing": 1, "to listing": 3} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "above", "raft")
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			asNobody(t, path, may, func() {
				directory, err := logstore.Claim(path, owner)
				if err != nil {
					t.Fatalf("Claim: %v", err)
				}
				if err := directory.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Under AppArmor access(2) succeeds and open(2) fails. So it is here, because access(2) checks
// the permissions of the user that runs the test.
func TestClaimOfADirectoryInAFolderThatRootMayNotOpen(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	path := filepath.Join(above, "raft")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	logstoretest.Unlisted(t, above, func() {
		directory, err := logstore.Claim(path, owner)
		if err != nil {
			t.Fatalf("Claim: %v", err)
		}
		if err := directory.Close(); err != nil {
			t.Error(err)
		}
	})
}

// asNobody runs do, in this goroutine, as a user who has path, and has only the permissions
// may (1 is to pass through, 2 to write) for the folder that path lies in.
func asNobody(t *testing.T, path string, may fs.FileMode, do func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	above := filepath.Dir(path)
	if os.Geteuid() == 0 {
		const nobody = 65534
		must(os.Chown(path, nobody, -1))
		for folder := filepath.Dir(above); len(folder) > len(os.TempDir()); folder = filepath.Dir(folder) {
			must(os.Chmod(folder, 0o711)) // the folder of a test is closed to other users
		}
		must(os.Chmod(above, 0o700|may<<3|may)) // its group is still the same
		// Without the wrapper of package syscall it is one thread that changes its user.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		become := func(user uintptr) {
			if _, _, err := syscall.RawSyscall(syscall.SYS_SETRESUID, user, user, 0); err != 0 {
				t.Fatal(err)
			}
		}
		become(nobody)
		defer become(0)
	} else {
		must(os.Chmod(above, may<<6))
		defer func() { must(os.Chmod(above, 0o700)) }()
	}
	do()
}

// Not every file system can sync a folder; one that can't holds nothing that Claim made.
func TestClaimOfADirectoryInAFolderThatCanNotBeSynced(t *testing.T) {
	_, err := logstore.Claim("/proc/self", owner)
	if err == nil || !strings.Contains(err.Error(), "instance.lock") {
		t.Fatalf("Claim: %v, want that nothing can be created there", err)
	}
}

// An instance must not stop over what it can't know.
func TestADirectoryThatCanNotBeLookedAtCountsAsPresent(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	path := filepath.Join(above, "raft")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	asNobody(t, path, 1, func() {
		directory := claim(t, path)
		closed := make(chan error)
		go func() { closed <- os.Chmod(above, 0) }() // by the user who runs the test
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("Stat: %v, want fs.ErrPermission", err)
		}
		if err := directory.Present(); err != nil {
			t.Errorf("Present = %v, want no error", err)
		}
	})
	if err := os.Chmod(above, 0o700); err != nil {
		t.Fatal(err)
	}
}

// What is written to the null device can't be synced.
func TestTheContentOfANoteIsDurableOnceItIsKept(t *testing.T) {
	directory := claim(t, t.TempDir())
	if err := os.Symlink(os.DevNull, filepath.Join(directory.Path(), "note.tmp")); err != nil {
		t.Fatal(err)
	}
	if err := directory.Keep("note", []byte("x")); err == nil {
		t.Error("Keep of what can't be synced = nil, want an error")
	}
	if content, found, err := directory.Kept("note"); found || err != nil {
		t.Errorf("Kept = %q, %v, %v, want nothing", content, found, err)
	}
}
