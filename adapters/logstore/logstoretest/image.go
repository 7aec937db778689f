package logstoretest

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// Image gives a copy of dir, whose store is open, as a crash would leave it. Where the
// store removes or renames a file meanwhile the copy is not all that there is, and is
// made anew.
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
	t.Fatalf("files of %s come and go all the time", dir)
	return ""
}
