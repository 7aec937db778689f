package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNoInstance is what a claim on an existing directory returns when it is not
// the directory of any instance.
var ErrNoInstance = errors.New("no instance has ever used this directory")

// ClaimExisting takes the directory of an instance for work on it while the
// instance does not run, whoever it belongs to: see RaftID and Backend. Unlike
// Claim it creates nothing. The rest is as there.
func ClaimExisting(path string) (*Directory, error) {
	return claimExisting(path, lock)
}

// ClaimReadOnly is ClaimExisting for those who only look: it changes nothing, so
// that it works where nothing can be changed too. Several can hold it at once.
func ClaimReadOnly(path string) (*Directory, error) {
	directory, err := claimExisting(path, lockForReading)
	if err == nil {
		directory.readOnly = true
	}
	return directory, err
}

// WrittenBy is the name of the backend that keeps the log in a directory; false where
// no instance has ever used it, or its manifest can't be read, which Claim tells. It is a
// look, and no claim.
func WrittenBy(path string) (backend string, found bool) {
	says, err := readManifest(path)
	return says.Backend, err == nil
}

func claimExisting(path string, lock func(string) (*os.File, error)) (*Directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("raft directory: %w", err)
	}
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, fmt.Errorf("raft directory: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("raft directory: %s is not a directory", path)
	}
	// A lock file is made only where there is something to lock.
	if err := refuseStranger(path); err != nil {
		return nil, err
	}
	held, err := lock(path)
	if err != nil {
		return nil, err
	}
	says, err := readManifest(path)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return newDirectory(path, held, says)
}

func refuseStranger(path string) error {
	_, err := os.Lstat(filepath.Join(path, manifestName))
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // readManifest knows better what is wrong
	}
	if err := refuseForeign(path); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s has no %s", ErrNoInstance, path, manifestName)
}

// lockForReading keeps instances away, and is not in the way of another reader.
// An instance makes the lock file before anything else and never removes it: where
// there is none, in a copy say, nobody runs, and the directory stands in for it.
func lockForReading(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		path = dir
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	return flock(file, dir, syscall.LOCK_SH)
}

// RaftID is the id of the instance that the directory belongs to.
func (d *Directory) RaftID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.says.RaftID
}

// Backend is the name of the backend that keeps the log in the directory.
func (d *Directory) Backend() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.says.Backend
}

// mayWrite says why the directory, whose lock the caller holds, must not be
// changed through this claim.
func (d *Directory) mayWrite() error {
	switch {
	case d.held == nil:
		// Somebody else may hold the directory by now.
		return ErrClosed
	case d.readOnly:
		return ErrReadOnly
	}
	return nil
}
