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

// list says which segments belong to the log: those from First to Last, both 0 while
// there is none; the last ones may not be begun yet. Nothing is acknowledged that is in a
// segment beyond; what lies before is removed. Without it, a file that is missing could not be told from one that was
// never made, and the log would end, or begin, somewhere else, and nobody would know.
//
// Reaches is a batch that was durable before the list was written. Numbers of batches
// only grow, so a log that ends before it has lost its end, however long ago that was and
// whatever was written since: it is never taken back. Builds from before it do not read
// it, and write a list without it: then nothing is known. It has a checksum of its own,
// because they know the other one.
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

// reachesSum is empty where nothing is known.
func (l list) reachesSum() string {
	if l.Reaches == 0 {
		return ""
	}
	return sumOf(fmt.Sprintf("%d %d %d %d", l.Format, l.First, l.Last, l.Reaches))
}

func sumOf(text string) string {
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli))
}

// write puts the list in the place of the one that is there.
func (l list) write(dir string) error {
	l.Format = listFormat
	l.Checksum, l.ReachesChecksum = l.sum(), l.reachesSum()
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return logstore.ReplaceFile(dir, listName, append(raw, '\n'))
}

// readList also says whether there is a list: where there is none, there is nothing
// else, or it was lost.
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
