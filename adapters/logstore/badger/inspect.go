package badger

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// Inspect opens log.badger in dir for reading only: see logstore.Backend.
//
// badger refuses to open files read-only after a crash, because it would have to
// truncate the write-ahead logs, which are larger than their contents; and even then
// it removes files that it considers superfluous. So Inspect gives it a temporary
// folder, with links to the files that badger only reads, and with copies of the
// write-ahead logs, truncated where an instance would truncate them.
func Inspect(dir string, logger *slog.Logger) (_ logstore.Store, err error) {
	path := filepath.Join(dir, dirName)
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	defer func() {
		if err != nil && !errors.Is(err, logstore.ErrNoStore) {
			err = fmt.Errorf("open %s: %w", path, err)
		}
	}()
	written, err := check(path, logger)
	if err != nil {
		return nil, err
	}
	if !written {
		return nil, fmt.Errorf("%w: %s", logstore.ErrNoStore, path)
	}
	folder, err := os.MkdirTemp("", "nodesmetadata-inspect-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	if err := mirror(path, folder, logger); err != nil {
		return nil, err
	}
	db, err := openDB(optionsFor(folder, slog.New(slog.DiscardHandler)).WithReadOnly(true))
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", ErrDamagedTables, strings.ReplaceAll(err.Error(), folder, path))
	}
	s, err := newStore(db, folder, logger)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	close(s.stopped) // no housekeeping goroutine runs
	return logstore.ReadOnly(&inspected{store: s, folder: folder}), nil
}

// inspected is a store whose folder is removed by Close.
type inspected struct {
	*store
	folder string
}

// Close closes the store and removes its folder. badger keeps the write-ahead logs mapped
// until the process ends.
func (i *inspected) Close() error {
	return errors.Join(i.store.Close(), os.RemoveAll(i.folder))
}

// mirror fills folder with links to, and copies of, the files of path that badger reads.
func mirror(path, folder string, logger *slog.Logger) error {
	path, err := filepath.Abs(path) // a relative link would start at folder
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		from, to := filepath.Join(path, name), filepath.Join(folder, name)
		switch {
		case filepath.Ext(name) == walSuffix:
			err = mirrorLog(from, to, logger)
		case name == manifestFile, name == keyRegistryFile, filepath.Ext(name) == tableSuffix:
			err = os.Symlink(from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mirrorLog copies the whole transactions of a write-ahead log, if there are any.
func mirrorLog(from, to string, logger *slog.Logger) error {
	raw, err := os.ReadFile(from)
	if err != nil || len(raw) <= walHeaderSize {
		return err
	}
	end := readableEnd(raw)
	if len(bytes.Trim(raw[end:], "\x00")) > 0 {
		logstore.WarnOfTornEnd(logger, from, slog.Int("byte", end))
	}
	if end == walHeaderSize {
		return nil
	}
	return os.WriteFile(to, raw[:end], 0o600)
}
