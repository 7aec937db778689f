package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// fillerName is the name of the file that FillDisks writes.
const fillerName = "filler"

// nearlyFull is how many bytes FillDisks leaves at first: far more than any backend needs.
const nearlyFull = 32 << 20

// FillDisks uses up the space on the disks of instances of a cluster with
// Options.DiskSize, until FreeDisk. It may take seconds, but all disks get full at
// about the same time: otherwise the last instance with space left would lead
// without a majority that can write, and answer nothing.
func FillDisks(instances ...*Instance) {
	for _, leave := range []uint64{nearlyFull, 0} {
		for _, i := range instances {
			if err := fill(i.filler(), leave); err != nil {
				i.t.Fatalf("fill the disk of %s: %v", i.ID, err)
			}
		}
	}
}

// fill writes to a file until at most leave bytes are free.
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
			size /= 2 // a smaller write may still fit
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// FreeDisk undoes FillDisks for the instance.
func (i *Instance) FreeDisk() {
	i.t.Helper()
	if err := os.Remove(i.filler()); err != nil {
		i.t.Fatal(err)
	}
}

// filler returns the path of the file that fills the disk of the instance. Only the
// instance has the disk mounted, so the path leads through /proc.
func (i *Instance) filler() string {
	return filepath.Join(fmt.Sprintf("/proc/%d/task/%d/root", os.Getpid(), i.spawner.thread), i.Directory, fillerName)
}
