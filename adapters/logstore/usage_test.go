package logstore_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

func TestUsageOfTheLogAndOfTheSnapshots(t *testing.T) {
	path := t.TempDir()
	directory, err := logstore.Claim(path, logstore.Owner{RaftID: "a", Backend: "bolt"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if log, snapshots := directory.Usage(); log != 0 || snapshots != 0 {
		t.Errorf("usage of a new directory: log %d bytes, snapshots %d, want none", log, snapshots)
	}
	const block = 1 << 16 // of any file system
	write := func(name string, size int) {
		t.Helper()
		file := filepath.Join(path, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log.bolt", 2*block)
	write("log.badger/000001.vlog", block)
	write("snapshots/1-2-3/state.bin", 4*block)
	write("note.txt", 8*block)
	// A file system may allocate blocks only when the content is written back.
	for _, name := range []string{"log.bolt", "log.badger/000001.vlog", "snapshots/1-2-3/state.bin"} {
		file, err := os.OpenFile(filepath.Join(path, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
	}
	log, snapshots := directory.Usage()
	if log < 3*block || log > 4*block || snapshots < 4*block || snapshots > 5*block {
		t.Errorf("usage: log %d bytes, snapshots %d, want little more than %d and %d", log, snapshots, 3*block, 4*block)
	}
	if runtime.GOOS != "linux" {
		return
	}
	// badger reserves much more than it uses.
	if err := os.Truncate(filepath.Join(path, "log.badger/000001.vlog"), 1<<30); err != nil {
		t.Fatal(err)
	}
	if sparse, _ := directory.Usage(); sparse > log+block {
		t.Errorf("usage of the log with a sparse file of 1 GiB = %d bytes, want at most %d", sparse, log+block)
	}
}
