package badger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// openFile is the name of a file that exists while badger's files are open, and so also
// after a crash. During that time there is always a write-ahead log with more than a header:
// badger begins the next one before it removes one. So if openFile exists and no such log
// does, a log was lost; badger itself would silently create a new one.
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
