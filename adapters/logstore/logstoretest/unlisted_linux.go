package logstoretest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// nobody is a user who, unlike root, is subject to file permissions.
const nobody = 65534

// Unlisted runs do, in this goroutine, while dir can't be opened for reading. Files in dir
// can still be created, read and written, but dir itself can't be synced, so do fails only
// if it tries to sync dir.
func Unlisted(tb testing.TB, dir string, do func()) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		must(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, nobody, -1))
		}))
		for above := filepath.Dir(dir); len(above) > len(os.TempDir()); above = filepath.Dir(above) {
			must(os.Chmod(above, 0o711)) // the folder of a test is closed to other users
		}
		// Setfsuid sets the user for file access of one thread only.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		must(syscall.Setfsuid(nobody))
		defer func() { must(syscall.Setfsuid(0)) }()
	}
	must(os.Chmod(dir, 0o300))
	defer func() { must(os.Chmod(dir, 0o700)) }()
	do()
}
