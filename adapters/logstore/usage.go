package logstore

import (
	"io/fs"
	"path/filepath"
	"strings"
)

// Usage returns how many bytes the log and the snapshots take on disk. Sparse files count
// with what is allocated, if the operating system tells. Files that can't be examined, for
// example because they are being removed, count as nothing.
func (d *Directory) Usage() (log, snapshots int64) {
	_ = filepath.WalkDir(d.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		relative, err := filepath.Rel(d.path, path)
		switch top, _, _ := strings.Cut(relative, string(filepath.Separator)); {
		case err != nil:
		case top == SnapshotsFolder:
			snapshots += allocated(info)
		case strings.HasPrefix(top, storePrefix):
			log += allocated(info)
		}
		return nil
	})
	return log, snapshots
}
