package snapshots

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files that are missing; existing ones stay")

// golden compares got with a file in testdata, byte by byte, and returns the file's content.
// Data of past releases is on disks, so -update only adds files and changes none.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err != nil {
		t.Fatalf("%v (write the file of a new format with: go test -run Golden -update)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed:\n got %x\nwant %x", path, got, want)
	}
	return want
}
