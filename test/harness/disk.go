package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Disk is a small file system of its own, for an instance whose disk a test wants
// to fill or to hang.
type Disk struct {
	t    testing.TB
	path string
	thaw func()
}

// SmallDisk mounts a file system of so many bytes, in memory, until t ends. Where
// that is not possible, because t does not run as root on Linux say, it skips t.
func SmallDisk(t testing.TB, size int64) *Disk {
	t.Helper()
	d := newDisk(t)
	d.mount("-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", size), "tmpfs")
	return d
}

// FreezableDisk is SmallDisk with a file system that can be made to hang.
func FreezableDisk(t testing.TB, size int64) *Disk {
	t.Helper()
	d := newDisk(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	d.need("mkfs.ext4", "-q", image)
	d.mount("-o", "loop", image)
	return d
}

func newDisk(t testing.TB) *Disk {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("skipped: it mounts a file system, which takes root on Linux")
	}
	return &Disk{t: t, path: t.TempDir(), thaw: func() {}}
}

// mount is undone when all that was set up later is undone.
func (d *Disk) mount(args ...string) {
	d.t.Helper()
	d.need("mount", append(args, d.path)...)
	d.t.Cleanup(func() {
		if out, err := exec.Command("umount", d.path).CombinedOutput(); err != nil {
			d.t.Errorf("unmount %s: %v: %s", d.path, err, out)
		}
	})
}

// need runs a command, or skips the test where it can't.
func (d *Disk) need(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Skipf("skipped: it needs %s, which fails here: %v: %s", name, err, out)
	}
}

// Path is a place on the disk.
func (d *Disk) Path(name string) string { return filepath.Join(d.path, name) }

// Fill takes all the room that is left.
func (d *Disk) Fill() {
	d.t.Helper()
	if err := fill(d.Path("ballast"), 0); err != nil {
		d.t.Fatalf("fill the disk at %s: %v", d.path, err)
	}
}

// Free gives back what Fill took.
func (d *Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.Path("ballast")); err != nil {
		d.t.Fatal(err)
	}
}

// Freeze has every write wait for Thaw, or for the end of the test. Call it when
// all instances are set up, so that they end after that.
func (d *Disk) Freeze() {
	d.t.Helper()
	d.need("fsfreeze", "--freeze", d.path)
	d.thaw = sync.OnceFunc(func() {
		if out, err := exec.Command("fsfreeze", "--unfreeze", d.path).CombinedOutput(); err != nil {
			d.t.Errorf("unfreeze %s: %v: %s", d.path, err, out)
		}
	})
	d.t.Cleanup(d.thaw)
}

// Thaw ends Freeze.
func (d *Disk) Thaw() { d.thaw() }
