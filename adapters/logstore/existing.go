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

// ClaimExisting claims the directory of an instance that does not run, whatever its
// RaftID and Backend. Unlike Claim it creates nothing, and does not make the names of files
// durable: a caller that relies on the files in the directory has to do that. The name of the
// directory itself is durable, because Claim sees to that before it writes the manifest.
// Otherwise ClaimExisting does what Claim does.
func ClaimExisting(path string) (*Directory, error) {
	return claimExisting(path, lock)
}

// ClaimReadOnly is ClaimExisting for reading. It changes nothing, so it works on a
// read-only file system too. Several such claims can be held at once.
func ClaimReadOnly(path string) (*Directory, error) {
	directory, err := claimExisting(path, lockForReading)
	if err == nil {
		directory.readOnly = true
	}
	return directory, err
}

// WrittenBy returns the name of the backend that keeps the log in a directory, without a
// claim. It returns false if no instance has used the directory, or its manifest can't be
// read; Claim reports which.
func WrittenBy(path string) (backend string, found bool) {
	content, err := readManifest(path)
	return content.Backend, err == nil
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
	content, err := readManifest(path)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return newDirectory(path, held, content)
}

func refuseStranger(path string) error {
	_, err := os.Lstat(filepath.Join(path, manifestName))
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // there is one, or readManifest reports what is wrong
	}
	if err := refuseForeign(path); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s has no %s", ErrNoInstance, path, manifestName)
}

// lockForReading takes a shared lock, which excludes instances but not other readers.
// An instance makes the lock file before anything else and never removes it. If there is
// none, as in a copy, no instance runs, and the lock is on the directory instead.
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
	return d.manifest.RaftID
}

// Backend is the name of the backend that keeps the log in the directory.
func (d *Directory) Backend() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.manifest.Backend
}

// mayWrite returns why the directory must not be changed through this claim; nil if it
// may. The caller holds mu.
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
