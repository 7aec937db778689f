package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// fillerName is the file that FillDisk makes.
const fillerName = "filler"

// FillDisk leaves no room on the file system of an instance of a cluster with
// Options.DiskSize, until FreeDisk.
func (i *Instance) FillDisk() {
	i.t.Helper()
	if err := fill(i.filler()); !errors.Is(err, syscall.ENOSPC) {
		i.t.Fatalf("fill the disk of %s: %v", i.ID, err)
	}
}

// fill writes a file until that is an error.
func fill(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for size := 1 << 20; ; {
		_, err := file.Write(make([]byte, size))
		if errors.Is(err, syscall.ENOSPC) && size > 1 {
			size /= 2 // there may be room for less
			continue
		}
		if err != nil {
			return err
		}
	}
}

// FreeDisk undoes FillDisk.
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
