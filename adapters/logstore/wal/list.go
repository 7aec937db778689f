package wal

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

const (
	listName   = "segments.json"
	listFormat = 1
)

// list says which segments belong to the log: those from First to Last, both 0 while there
// is none; the last ones may not be begun yet. Nothing in a segment after Last is
// acknowledged; segments before First are removed. Without the list, a missing file could
// not be told from one that was never created, and the log would silently end, or begin,
// somewhere else.
//
// Reaches is the number of a batch that was durable before the list was written. Batch
// numbers only grow, so a log that ends before that batch has lost its end, however old the
// list is and whatever was written since; the number never has to be retracted. Earlier
// builds ignore Reaches and write a list without it: then nothing is known. It has a
// checksum of its own, because these builds verify the other one without it.
type list struct {
	Format          int    `json:"format"`
	First           uint64 `json:"first"`
	Last            uint64 `json:"last"`
	Checksum        string `json:"checksum"`
	Reaches         uint64 `json:"reaches,omitempty"`
	ReachesChecksum string `json:"reaches_checksum,omitempty"`
}

func (l list) sum() string {
	return sumOf(fmt.Sprintf("%d %d %d", l.Format, l.First, l.Last))
}

// reachesSum returns the checksum of Reaches, or "" if Reaches is 0, that is unknown.
func (l list) reachesSum() string {
	if l.Reaches == 0 {
		return ""
	}
	return sumOf(fmt.Sprintf("%d %d %d %d", l.Format, l.First, l.Last, l.Reaches))
}

func sumOf(text string) string {
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli))
}

// write replaces the list on disk, atomically and durably.
func (l list) write(dir string) error {
	l.Format = listFormat
	l.Checksum, l.ReachesChecksum = l.sum(), l.reachesSum()
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return logstore.ReplaceFile(dir, listName, append(raw, '\n'))
}

// readList reads the list of dir and reports whether there is one. A missing list is
// ErrDamaged if there are segments.
func readList(dir string) (l list, found bool, err error) {
	path := filepath.Join(dir, listName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		files, err := segmentFiles(dir)
		if err == nil && len(files) > 0 {
			err = fmt.Errorf("%w (%s is missing)", ErrDamaged, path)
		}
		return list{}, false, err
	}
	if err != nil {
		return list{}, false, err
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return list{}, true, fmt.Errorf("%w (%s: %w)", ErrDamaged, path, err)
	}
	if l.Checksum != l.sum() || l.ReachesChecksum != l.reachesSum() {
		return list{}, true, fmt.Errorf("%w (%s: checksum mismatch)", ErrDamaged, path)
	}
	if l.Format != listFormat {
		return list{}, true, fmt.Errorf("%s has format %d, this build reads %d: run the version that wrote it, or a newer one", path, l.Format, listFormat)
	}
	return l, true, nil
}

func segmentFiles(dir string) ([]string, error) {
	return logstore.FilesNamed(dir, "", segmentSuffix)
}
