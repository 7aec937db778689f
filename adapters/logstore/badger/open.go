package badger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// openFile lies beside badger's files from when they are open until they are about to
// be closed, so also after a crash. In that time there is always a write-ahead log that
// is not empty: badger begins the next one before it removes one. So one that went
// missing is noticed, though badger itself would make a new one in its place.
const openFile = "OPEN"

func markOpen(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, openFile), nil, 0o600); err != nil {
		return err
	}
	return logstore.SyncDir(dir)
}

func unmarkOpen(dir string) error {
	err := os.Remove(filepath.Join(dir, openFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, logstore.SyncDir(dir))
}

func wasOpen(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, openFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
