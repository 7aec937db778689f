package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// asidePrefix begins the name of a folder that SetAside makes.
	asidePrefix = "damaged-"
	asideTime   = "20060102T150405.000Z"
	// keptAside is how many such folders are kept.
	keptAside = 3
)

// SetAside moves the store and the snapshots into a new folder of the directory, where
// they can be examined, and returns that folder. If one of the two can't be moved, both
// stay where they are. Only the last keptAside folders are kept. The store must be closed.
func (d *Directory) SetAside(now time.Time) (folder string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return "", fmt.Errorf("set aside the contents of %s: %w", d.path, err)
	}
	if err := d.forgetAside(keptAside - 1); err != nil {
		return "", err
	}
	folder = filepath.Join(d.path, asidePrefix+now.UTC().Format(asideTime))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", err
	}
	var moved []string
	for _, name := range []string{SnapshotsFolder, storeName(d.manifest.Backend)} {
		err := os.Rename(filepath.Join(d.path, name), filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", errors.Join(err, d.putBack(folder, moved))
		}
		moved = append(moved, name)
	}
	return folder, errors.Join(SyncDir(folder), SyncDir(d.path))
}

func (d *Directory) putBack(folder string, moved []string) error {
	for _, name := range moved {
		if err := os.Rename(filepath.Join(folder, name), filepath.Join(d.path, name)); err != nil {
			return err
		}
	}
	return os.Remove(folder)
}

// forgetAside removes all but the last folders, by their names, which sort by time.
func (d *Directory) forgetAside(left int) error {
	folders, err := FilesNamed(d.path, asidePrefix, "")
	if err != nil {
		return err
	}
	for len(folders) > left {
		if err := os.RemoveAll(folders[0]); err != nil {
			return err
		}
		folders = folders[1:]
	}
	return nil
}
