package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// fillerName is the file that FillDisks makes.
const fillerName = "filler"

// nearlyFull is how much room FillDisks leaves at first: far more than any backend needs.
const nearlyFull = 32 << 20

// FillDisks leaves no room on the file systems of instances of a cluster with
// Options.DiskSize, until FreeDisk. It may take seconds, but all get full at about the same
// time: an instance that still had room when a majority has none would lead, and answer nobody.
func FillDisks(instances ...*Instance) {
	for _, leave := range []uint64{nearlyFull, 0} {
		for _, i := range instances {
			if err := fill(i.filler(), leave); err != nil {
				i.t.Fatalf("fill the disk of %s: %v", i.ID, err)
			}
		}
	}
}

// fill writes to a file until so much room is left.
func fill(path string, leave uint64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for size := 1 << 20; size > 0; {
		var disk syscall.Statfs_t
		if err := syscall.Fstatfs(int(file.Fd()), &disk); err != nil {
			return err
		}
		if leave > 0 && disk.Bavail*uint64(disk.Bsize) <= leave {
			return nil
		}
		_, err := file.Write(make([]byte, size))
		if errors.Is(err, syscall.ENOSPC) {
			size /= 2 // there may be room for less
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// FreeDisk undoes FillDisks.
func (i *Instance) FreeDisk() {
	i.t.Helper()
	if err := os.Remove(i.filler()); err != nil {
		i.t.Fatal(err)
	}
}

// filler is a file on the disk of the instance, as it can be reached from here:
// nobody but the instance has that disk mounted.
func (i *Instance) filler() string {
	return filepath.Join(fmt.Sprintf("/proc/%d/task/%d/root", os.Getpid(), i.nursery.thread), i.Directory, fillerName)
}
