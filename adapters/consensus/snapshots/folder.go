package snapshots

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

// The layout of raft.FileSnapshotStore.
const (
	metaFile         = "meta.json"
	stateFile        = "state.bin"
	unfinishedSuffix = ".tmp" // ends the name of a snapshot that is not complete, or about to go

	// metaVersion is the only one of raft's snapshot versions that is written or read.
	metaVersion raft.SnapshotVersion = 1
)

var stateTable = crc64.MakeTable(crc64.ECMA)

var (
	// ErrMissing says that a snapshot lacks one of its files.
	ErrMissing = errors.New("it is missing")
	// ErrUnknownFormat says that a description is intact, and of a version that this build
	// does not read.
	ErrUnknownFormat = errors.New("unknown format")

	errChecksum = errors.New("checksum mismatch: the data is damaged")
)

// Contents are the snapshots that Read has found.
type Contents struct {
	// Described are complete snapshots whose descriptions are intact, the newest first.
	// Their states are not verified yet.
	Described []Snapshot
	// Damaged are the descriptions of the other complete snapshots, in the order of names.
	Damaged []Damage
	// Unfinished are the paths of what was being written or removed when the instance ended.
	// It is not needed: see Remove.
	Unfinished []string
}

// Snapshot is a complete snapshot whose description is intact. It never changes.
type Snapshot struct {
	raft.SnapshotMeta
	path string // of its folder
	crc  []byte // of its state
}

// Damage is a description that can't be used.
type Damage struct {
	Path string // of the file, which may be missing
	Err  error  // ErrMissing, ErrUnknownFormat, or what else is wrong with it
}

// Read reads what the snapshots in the directory of an instance say about themselves, and
// changes nothing. That there are none is no error.
func Read(directory string) (found Contents, err error) {
	folder := filepath.Join(directory, logstore.SnapshotsFolder)
	metas, err := readDescriptions(folder, func(path string, err error) {
		found.Damaged = append(found.Damaged, Damage{filepath.Join(path, metaFile), err})
	})
	if err != nil {
		return Contents{}, err
	}
	for _, meta := range metas {
		found.Described = append(found.Described, Snapshot{meta.SnapshotMeta, filepath.Join(folder, meta.ID), meta.CRC})
	}
	found.Unfinished, err = logstore.FilesNamed(folder, "", unfinishedSuffix)
	return found, err
}

// StatePath is the path of the state, which may be missing.
func (s *Snapshot) StatePath() string { return filepath.Join(s.path, stateFile) }

// OpenState opens the state once it has verified its size and checksum; ErrMissing if there is
// none. The caller closes it.
func (s *Snapshot) OpenState() (io.ReadCloser, error) { return openState(s.StatePath(), s.Size, s.crc) }

// readDescriptions reads the descriptions of all snapshots, the newest first, and calls
// damaged for each folder with a damaged one.
func readDescriptions(folder string, damaged func(path string, err error)) (found []description, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if _, ok := parseName(entry.Name()); !ok || !entry.IsDir() {
			continue // unfinished, or no snapshot: a lost+found, or a copy that somebody made
		}
		path := filepath.Join(folder, entry.Name())
		meta, err := readDescription(path)
		if err != nil {
			damaged(path, err)
			continue
		}
		found = append(found, meta)
	}
	slices.SortFunc(found, func(a, b description) int { return -compare(&a.SnapshotMeta, &b.SnapshotMeta) })
	return found, nil
}

// IsOlder reports whether the snapshot id comes before the snapshot than, in raft's order:
// by term, then by index, then by name. It is false unless both are names of complete snapshots.
func IsOlder(id, than string) bool {
	one, ok := parseName(id)
	other, also := parseName(than)
	return ok && also && compare(&one, &other) < 0
}

// compare is raft's order.
func compare(a, b *raft.SnapshotMeta) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
}

// parseName returns what the folder name of a complete snapshot says about it.
func parseName(name string) (meta raft.SnapshotMeta, ok bool) {
	term, index, _, ok := logstore.SnapshotName(name)
	return raft.SnapshotMeta{ID: name, Term: term, Index: index}, ok
}

// newMeta describes a snapshot that is begun now. Its Peers are empty: raft reads
// them only in snapshots of version 0.
func newMeta(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64) (raft.SnapshotMeta, error) {
	if version != metaVersion {
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

// openState opens the state after it has verified its size and checksum.
func openState(path string, wantSize int64, wantCRC []byte) (state io.ReadCloser, err error) {
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrMissing
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
		return nil, errChecksum
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}
