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

// Disk is a small file system of its own, for an instance whose disk a test fills or freezes.
type Disk struct {
	t    testing.TB
	path string
	thaw func()
}

// SmallDisk mounts an in-memory file system of size bytes until t ends. It skips t
// where that is not possible, for example without root on Linux.
func SmallDisk(t testing.TB, size int64) *Disk {
	t.Helper()
	d := newDisk(t)
	d.mount("-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", size), "tmpfs")
	return d
}

// FreezableDisk is SmallDisk with a file system that Freeze can block.
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
		t.Skip("skipped: mounting a file system takes root on Linux")
	}
	return &Disk{t: t, path: t.TempDir(), thaw: func() {}}
}

// mount mounts the file system. Cleanups run in reverse order, so it is unmounted
// after everything set up later is gone.
func (d *Disk) mount(args ...string) {
	d.t.Helper()
	d.need("mount", append(args, d.path)...)
	d.t.Cleanup(func() {
		if out, err := exec.Command("umount", d.path).CombinedOutput(); err != nil {
			d.t.Errorf("unmount %s: %v: %s", d.path, err, out)
		}
	})
}

// need runs a command, and skips the test if the command fails.
func (d *Disk) need(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Skipf("skipped: the test needs %s, which fails here: %v: %s", name, err, out)
	}
}

// Path returns the path of name on the disk.
func (d *Disk) Path(name string) string { return filepath.Join(d.path, name) }

// Fill uses up all remaining space.
func (d *Disk) Fill() {
	d.t.Helper()
	if err := fill(d.Path("ballast"), 0); err != nil {
		d.t.Fatalf("fill the disk at %s: %v", d.path, err)
	}
}

// Free gives back the space that Fill used.
func (d *Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.Path("ballast")); err != nil {
		d.t.Fatal(err)
	}
}

// Freeze blocks every write until Thaw or the end of the test. Call it after all
// instances are set up: cleanups run in reverse order, so the disk thaws before the
// instances are ended.
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
