// Package golden compares what tests encode with files that earlier builds have written. Data
// of past releases is on disks, so the flag -update adds missing files and changes none.
package golden

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files that are missing; existing ones stay")

// File compares got with the file name in the folder testdata of the package under test, byte
// by byte, and returns the file's content.
func File(t testing.TB, name string, got []byte) []byte {
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
		t.Fatalf("%v (write the file of a new format with: go test -run '%s' -update)", err, t.Name())
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed:\n got %x\nwant %x", path, got, want)
	}
	return want
}
