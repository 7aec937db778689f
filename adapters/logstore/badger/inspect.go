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
// badger refuses to do that to files that a crash left, because the write-ahead
// logs, which are larger than what is in them, would have to be cut first; and it
// removes files that it takes for superfluous in any case. So it is given a folder
// of its own, in the place for temporary files: links to what it only reads, and
// copies of the write-ahead logs that end where an instance would cut them.
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
	s := &store{db: db, path: folder, logger: logger, stop: make(chan struct{}), stopped: make(chan struct{})}
	close(s.stopped) // there is nothing to keep in order
	s.findBounds()
	return logstore.ReadOnly(&inspected{store: s, folder: folder}), nil
}

// inspected is a store in a folder that goes with it.
type inspected struct {
	*store
	folder string
}

// Close keeps what badger mapped of the write-ahead logs, until the process ends.
func (i *inspected) Close() error {
	return errors.Join(i.store.Close(), os.RemoveAll(i.folder))
}

// mirror fills folder with what badger is to read of path.
func mirror(path, folder string, logger *slog.Logger) error {
	path, err := filepath.Abs(path) // for links
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

// mirrorLog copies the transactions of a write-ahead log that are whole.
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
