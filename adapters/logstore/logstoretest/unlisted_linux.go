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

// nobody is a user who is not root, whom nothing stops.
const nobody = 65534

// Unlisted runs do, in this goroutine, while dir can't be listed: everything may be done
// with what is in it, but for making durable that it is there. Who does not notice has
// not tried to.
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
			must(os.Chmod(above, 0o711)) // a test has its folder for itself
		}
		// The user of the file system is one of each thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		must(syscall.Setfsuid(nobody))
		defer func() { must(syscall.Setfsuid(0)) }()
	}
	must(os.Chmod(dir, 0o300))
	defer func() { must(os.Chmod(dir, 0o700)) }()
	do()
}
