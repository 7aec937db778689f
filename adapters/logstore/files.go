package logstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FilesNamed returns the sorted paths of the files in dir whose names have this prefix and
// suffix; none if there is no dir. Unlike filepath.Glob it takes dir literally.
func FilesNamed(dir, prefix, suffix string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, nil
}
