package logstoretest

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// Image copies dir, whose store is open, as a crash would leave it, and returns the copy.
// If the store removes or renames a file meanwhile, Image copies again.
func Image(t testing.TB, dir string) string {
	t.Helper()
	for range 100 {
		image := t.TempDir()
		err := os.CopyFS(image, os.DirFS(dir))
		if err == nil {
			return image
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Fatalf("the files of %s changed during every attempt to copy them", dir)
	return ""
}
