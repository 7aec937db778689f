package logstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FilesNamed gives the paths of what lies in dir under names that begin and end so, in
// order; nothing where there is no dir. The path of dir may have any characters in it,
// also those that a pattern has.
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
