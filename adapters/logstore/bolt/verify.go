package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// ErrDamaged is what Open returns for a file whose pages make no sense.
var ErrDamaged = errors.New("bolt file is damaged: nothing was changed; restore the directory from a copy, or remove this instance from the cluster and let it join anew with an empty directory")

// verify walks every page in use, read-only.
//
// bbolt does the same when it rebuilds the list of free pages, but in a goroutine
// of its own, where a panic can't be recovered and a page that lies beyond the
// end of a cut file kills the process by a signal. So the walk is done here
// first, where both are errors.
func verify(path string) (err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() == 0:
		// bbolt starts an empty file afresh: it was created and never written.
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return unreadable(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return walk(db)
}

func walk(db *bbolt.DB) (err error) {
	defer guard(&err)()
	return db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			var last []byte
			return bucket.ForEach(func(key, value []byte) error {
				if last != nil && bytes.Compare(last, key) >= 0 {
					return fmt.Errorf("%w (keys of %q out of order)", ErrDamaged, name)
				}
				last = bytes.Clone(key)
				touch(value)
				return nil
			})
		})
	})
}

// touch reads a byte of every page under value, so that one that lies beyond the
// end of the file faults here. The sum keeps the compiler from leaving it out.
//
//go:noinline
func touch(value []byte) (sum byte) {
	for at := 0; at < len(value); at += 512 {
		sum += value[at]
	}
	if len(value) > 0 {
		sum += value[len(value)-1]
	}
	return sum
}

// guard turns a panic, and a fault on mapped memory, of the calling goroutine
// into an error: defer guard(&err)().
func guard(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if fault := recover(); fault != nil {
			*err = fmt.Errorf("%w (%v)", ErrDamaged, fault)
		}
	}
}

// unreadable tells a file that is held, or may not be read, from a damaged one.
func unreadable(err error) error {
	var path *fs.PathError
	if errors.Is(err, bbolt.ErrTimeout) || errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrDamaged, err)
}
