package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors" // its name is the standard library's

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// ErrDamaged is what Open returns for a file whose pages are not valid.
var ErrDamaged = logstore.Damage("bolt file is damaged: nothing was changed; " + logstore.HelpDamaged)

// verify reads every page in use and checks what bbolt relies on. It reports whether a
// log was ever written in the file.
//
// bbolt reads these pages too, when it rebuilds the list of free pages. But it does so in
// its own goroutine, whose panics can't be recovered, and through a memory map, where a
// page beyond the end of a truncated file raises a signal. Either ends the process
// without naming the file. So verify comes first, and uses ordinary reads.
func verify(path string, logger *slog.Logger) (written bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	if blank, err := isBlank(path, info.Size()); err != nil || blank {
		return false, err
	}
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	// bbolt treats a read error on the meta pages as if there were none: find it first.
	if _, err := file.ReadAt(make([]byte, 2*os.Getpagesize()), 0); logstore.IsRefusal(err) {
		return false, err
	}
	// bbolt finds the valid meta page, and holds its file lock meanwhile. Opened
	// read-only, it touches no other page.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return false, unreadable(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		size := db.Info().PageSize
		warnOfTornMeta(path, file, size, logger)
		pages := &pages{
			file: file,
			size: size,
			end:  uint64(tx.Size()) / uint64(size),
			seen: make(map[uint64]bool),
		}
		if err := pages.checkRoot(uint64(tx.Cursor().Bucket().RootPage())); err != nil {
			return err
		}
		// The first write creates both buckets together.
		written = tx.Bucket([]byte(logBucket)) != nil && tx.Bucket([]byte(stableBucket)) != nil
		return nil
	})
	return written, err
}

// firstWrite is the size that bbolt gives a new file, in pages.
const firstWrite = 4

// isBlank reports whether the file at path is what a crash may leave of bbolt's first write
// to it: empty, or zeros up to the size of that write, because a power cut may keep the size
// of a file without its contents. Nothing acknowledged was ever in it: before bbolt writes
// anything else, it makes a file larger, durably, and it makes none smaller. A larger file of
// zeros may be all that is left of a log, and is damaged.
//
// A log that was cut off there, and erased, would be begun afresh, as one of no bytes would
// be. But then the directory belongs to a cluster, and an instance that has no state there
// does not vote: the caller sees to that.
func isBlank(path string, size int64) (bool, error) {
	if size > firstWrite*int64(os.Getpagesize()) {
		return false, nil
	}
	raw, err := os.ReadFile(path)
	return len(bytes.Trim(raw, "\x00")) == 0, err
}

// emptyBlank truncates the file at path if it is blank: bbolt starts an empty file afresh, and
// refuses zeros.
func emptyBlank(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	blank, err := isBlank(path, info.Size())
	if err != nil || !blank {
		return err
	}
	return os.Truncate(path, 0)
}

// unreadable returns err as it is if the file is locked or the system can't read it, and
// as ErrDamaged otherwise.
func unreadable(err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) || logstore.IsRefusal(err) {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrDamaged, err)
}

// guard turns a panic of the calling goroutine into an error: defer guard(&err). bbolt
// panics on invalid pages, with a value that names the page.
func guard(err *error) {
	if fault := recover(); fault != nil {
		*err = fmt.Errorf("%w (%v)", ErrDamaged, fault)
	}
}
