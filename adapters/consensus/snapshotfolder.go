package consensus

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// The layout of raft.FileSnapshotStore, which snapshotStore shares.
const (
	snapshotMeta     = "meta.json"
	snapshotState    = "state.bin"
	unfinishedSuffix = ".tmp" // ends the name of a snapshot that is not complete, or about to go

	// snapshotMetaVersion is the only one of raft's snapshot versions that is written or read.
	snapshotMetaVersion raft.SnapshotVersion = 1
)

var stateTable = crc64.MakeTable(crc64.ECMA)

// errMissing says that a snapshot lacks one of its files.
var errMissing = errors.New("it is missing")

// errUnknownSnapshot says that a description is intact, and of a version that this build does
// not read.
var errUnknownSnapshot = errors.New("unknown format")

var errSnapshotChecksum = errors.New("checksum mismatch: the data is damaged")

// snapshotFolder is what readSnapshotFolder has found.
type snapshotFolder struct {
	described  []describedSnapshot // the newest first
	damaged    []snapshotDamage    // by name
	unfinished []string            // paths of what is not complete, or was about to go
}

// describedSnapshot is a complete snapshot whose description is intact.
type describedSnapshot struct {
	raft.SnapshotMeta
	path string // of its folder
	crc  []byte // of its state
}

// snapshotDamage is why a complete snapshot can't be used: its description is damaged, missing,
// or of another version.
type snapshotDamage struct {
	path string // of the description
	err  error
}

// readSnapshotFolder reads what the snapshots in the directory of an instance say about
// themselves, and changes nothing. A directory without any is no error.
func readSnapshotFolder(directory string) (found snapshotFolder, err error) {
	folder := filepath.Join(directory, logstore.SnapshotsFolder)
	metas, err := readSnapshotMetas(folder, func(path string, err error) {
		found.damaged = append(found.damaged, snapshotDamage{filepath.Join(path, snapshotMeta), err})
	})
	if err != nil {
		return snapshotFolder{}, err
	}
	for _, meta := range metas {
		found.described = append(found.described, describedSnapshot{meta.SnapshotMeta, filepath.Join(folder, meta.ID), meta.CRC})
	}
	found.unfinished, err = logstore.FilesNamed(folder, "", unfinishedSuffix)
	return found, err
}

func (s *describedSnapshot) statePath() string { return filepath.Join(s.path, snapshotState) }

// openState opens the state after it has verified its size and checksum.
func (s *describedSnapshot) openState() (io.ReadCloser, error) {
	return openSnapshotState(s.statePath(), s.Size, s.crc)
}

// readSnapshotMetas reads the descriptions of all snapshots, the newest first, and calls
// damaged for each folder with a damaged one.
func readSnapshotMetas(folder string, damaged func(path string, err error)) (found []snapshotDescription, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if _, ok := parseSnapshotName(entry.Name()); !ok || !entry.IsDir() {
			continue // unfinished, or no snapshot: a lost+found, or a copy that somebody made
		}
		path := filepath.Join(folder, entry.Name())
		meta, err := readSnapshotMeta(path)
		if err != nil {
			damaged(path, err)
			continue
		}
		found = append(found, meta)
	}
	slices.SortFunc(found, func(a, b snapshotDescription) int { return -compareSnapshots(&a.SnapshotMeta, &b.SnapshotMeta) })
	return found, nil
}

// isOlderSnapshot reports whether the snapshot id comes before the snapshot than, in raft's
// order; false unless both are the names of complete snapshots.
func isOlderSnapshot(id, than string) bool {
	one, ok := parseSnapshotName(id)
	other, also := parseSnapshotName(than)
	return ok && also && compareSnapshots(&one, &other) < 0
}

// compareSnapshots is raft's order.
func compareSnapshots(a, b *raft.SnapshotMeta) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
}

// parseSnapshotName returns what the folder name of a complete snapshot says about it.
func parseSnapshotName(name string) (meta raft.SnapshotMeta, ok bool) {
	term, index, _, ok := logstore.SnapshotName(name)
	return raft.SnapshotMeta{ID: name, Term: term, Index: index}, ok
}

// newSnapshotMeta describes a snapshot that is begun now. Its Peers are empty: raft reads
// them only in snapshots of version 0.
func newSnapshotMeta(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64) (raft.SnapshotMeta, error) {
	if version != snapshotMetaVersion {
		return raft.SnapshotMeta{}, fmt.Errorf("snapshots of version %d can't be made", version)
	}
	return raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli()),
		Index:              index,
		Term:               term,
		Configuration:      members,
		ConfigurationIndex: membersIndex,
	}, nil
}

// openSnapshotState opens the state after it has verified its size and checksum.
func openSnapshotState(path string, wantSize int64, wantCRC []byte) (state io.ReadCloser, err error) {
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errMissing
	case err != nil:
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close() // it was only read
		}
	}()
	sum := crc64.New(stateTable)
	size, err := io.Copy(sum, file)
	switch {
	case err != nil:
		return nil, err
	case size != wantSize:
		return nil, fmt.Errorf("it has %d bytes, and should have %d", size, wantSize)
	case !bytes.Equal(sum.Sum(nil), wantCRC):
		return nil, errSnapshotChecksum
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}
