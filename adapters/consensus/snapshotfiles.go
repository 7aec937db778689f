package consensus

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// What raft makes in the directory: raft.FileSnapshotStore can't be used to look at
// it, because it tries at once whether it may write.
const (
	snapshotsFolder = "snapshots"
	snapshotMeta    = "meta.json"
	snapshotState   = "state.bin"
	unfinished      = ".tmp" // ends the name of a snapshot that is not complete
)

// snapshotFile is what raft writes as meta.json.
type snapshotFile struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64 (ECMA) of the state
}

// readSnapshots reads all snapshots, and takes the newest that is whole for the
// base, as raft does.
func (i *inspection) readSnapshots() {
	folder := filepath.Join(i.Directory, snapshotsFolder)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		i.damage(folder, 0, err)
		return
	}
	var metas []snapshotFile
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), unfinished) {
			continue // raft does not look at these either
		}
		path := filepath.Join(folder, entry.Name())
		meta, err := readSnapshotMeta(path)
		if err != nil {
			_, index, _, _ := snapshotName(entry.Name())
			i.faultySnapshot(filepath.Join(path, snapshotMeta), index, err)
			continue
		}
		metas = append(metas, meta)
	}
	slices.SortFunc(metas, func(a, b snapshotFile) int { return -compareSnapshots(&a.SnapshotMeta, &b.SnapshotMeta) })
	for _, meta := range metas {
		path := filepath.Join(folder, meta.ID, snapshotState)
		decode := len(i.Snapshots) == 0 || !i.provenOnly
		read, err := readSnapshotState(path, meta, decode)
		if err != nil {
			i.faultySnapshot(path, meta.Index, err)
			continue
		}
		found := SnapshotReport{ID: meta.ID, Index: meta.Index, Term: meta.Term, Size: meta.Size}
		if len(i.Snapshots) == 0 {
			i.base = found
			i.machine.hold(read)
			i.newest = &prepared{meta.ID, read}
			i.Roster, i.RosterIndex = rosterOf(meta.Configuration), meta.ConfigurationIndex
			i.ReachIndex, i.ReachTerm = meta.Index, meta.Term
		}
		i.Snapshots = append(i.Snapshots, found)
	}
}

// faultySnapshot is spare unless conclude finds that it is missed.
func (i *inspection) faultySnapshot(path string, index uint64, err error) {
	f := Fault{Path: path, Index: index, What: err, Help: helpDamaged, Spare: true}
	if errors.Is(err, errUnknownFormat) {
		f.Help = helpNewer
	}
	i.fault(f)
}

// compareSnapshots is raft's order.
func compareSnapshots(a, b *raft.SnapshotMeta) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
}

// snapshotName reads how raft calls the folder of a snapshot: made is in
// milliseconds.
func snapshotName(name string) (term, index uint64, made int64, ok bool) {
	_, err := fmt.Sscanf(name+"\n", "%d-%d-%d\n", &term, &index, &made)
	return term, index, made, err == nil
}

func readSnapshotMeta(path string) (snapshotFile, error) {
	var meta snapshotFile
	raw, err := os.ReadFile(filepath.Join(path, snapshotMeta))
	if err != nil {
		return meta, errors.New("it is missing, or can't be read")
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return meta, err
	}
	name := filepath.Base(path)
	term, index, _, named := snapshotName(name)
	switch {
	case meta.Version < raft.SnapshotVersionMin || meta.Version > raft.SnapshotVersionMax:
		return meta, fmt.Errorf("%w: it is of version %d, this build reads up to %d", errUnknownFormat, meta.Version, raft.SnapshotVersionMax)
	case !named || meta.ID != name || meta.Index != index || meta.Term != term:
		return meta, fmt.Errorf("it is about snapshot %q, entry %d of term %d, and does not fit the name of its folder", meta.ID, meta.Index, meta.Term)
	}
	return meta, nil
}

// readSnapshotState reads the state twice: it is not decoded before the checksum
// that raft made has proven it. Without decode it is only proven.
func readSnapshotState(path string, meta snapshotFile, decode bool) (read restored, err error) {
	file, err := os.Open(path)
	if err != nil {
		return restored{}, err
	}
	defer func() { _ = file.Close() }() // it was only read
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	size, err := io.Copy(sum, file)
	switch {
	case err != nil:
		return restored{}, err
	case size != meta.Size:
		return restored{}, fmt.Errorf("it has %d bytes, and should have %d", size, meta.Size)
	case !bytes.Equal(sum.Sum(nil), meta.CRC):
		return restored{}, errChecksum
	case !decode:
		return restored{}, nil
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return restored{}, err
	}
	read, err = readSnapshot(file)
	switch {
	case err != nil:
		return restored{}, fmt.Errorf("%w: %w", errUnknownFormat, err)
	case read.applied > meta.Index:
		return restored{}, fmt.Errorf("it holds entry %d, and is said to end with entry %d", read.applied, meta.Index)
	}
	return read, nil
}
