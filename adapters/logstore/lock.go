package logstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock takes the directory for this claim. It does not wait.
//
// flock belongs to the open file, not to the process: a second claim by this
// process is refused as well, and the kernel lets go when the process dies,
// however it dies. The file is never removed: a claimant that had just opened
// the removed file would hold a lock that nobody else can see.
func lock(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	return flock(file, dir, syscall.LOCK_EX)
}

// flock takes the lock that file stands for, or closes file.
func flock(file *os.File, dir string, how int) (*os.File, error) {
	var err error
	for {
		err = syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return file, nil
	}
	// The lock is what failed; an error of closing the untouched file adds nothing.
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s", ErrDirectoryInUse, dir)
	}
	return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
}
