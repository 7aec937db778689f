package consensus

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// How raft.FileSnapshotStore keeps snapshots in the directory, and snapshotStore too.
const (
	snapshotMeta  = "meta.json"
	snapshotState = "state.bin"
	unfinished    = ".tmp" // ends the name of a snapshot that is not complete, or about to go

	// describedVersion is the only one of raft's versions of a snapshot that was ever written.
	describedVersion raft.SnapshotVersion = 1
)

var stateTable = crc64.MakeTable(crc64.ECMA)

// errMissing: a snapshot lacks one of its files.
var errMissing = errors.New("it is missing")

// snapshotFile is what meta.json says. The last member of the object is a checksum of
// all before it, which builds from before that ignore; the membership, for one, is
// nowhere else. They write the same without it, in exactly one way.
type snapshotFile struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64 (ECMA) of the state
}

// plain is the description without a checksum.
func (f snapshotFile) plain() ([]byte, error) {
	raw, err := json.Marshal(f)
	return append(raw, '\n'), err
}

func (f snapshotFile) encode() ([]byte, error) {
	raw, err := f.plain()
	return sealDescription(bytes.TrimSuffix(raw, []byte("}\n"))), err
}

// sealDescription ends a description of which the end of the object is missing.
func sealDescription(body []byte) []byte {
	return fmt.Appendf(bytes.Clone(body), descriptionSeal, crc32.Checksum(body, castagnoli))
}

const (
	descriptionSeal       = `,"Checksum":"%08x"}` + "\n" // CRC-32C
	descriptionSealLength = len(`,"Checksum":"01234567"}` + "\n")
)

// decodeDescription believes what its checksum proves. Where there is none, there must
// be nothing but what builds from before it write.
func decodeDescription(raw []byte) (f snapshotFile, err error) {
	body := raw[:max(0, len(raw)-descriptionSealLength)]
	proven := bytes.Equal(raw, sealDescription(body))
	if err := json.Unmarshal(raw, &f); err != nil || proven {
		return f, err
	}
	if plain, err := f.plain(); err != nil || f.Version != describedVersion || !bytes.Equal(raw, plain) {
		return f, errChecksum
	}
	return f, nil
}

// readSnapshots reads all snapshots, and takes the newest that is whole for the
// base, as raft does.
func (i *inspection) readSnapshots() {
	folder := filepath.Join(i.Directory, logstore.SnapshotsFolder)
	spoilt := map[string]error{}
	metas, err := describedSnapshots(folder, func(path string, err error) { spoilt[path] = err })
	if err == nil {
		i.Leftovers, err = logstore.FilesNamed(folder, "", unfinished)
	}
	if err != nil {
		i.damage(folder, 0, err)
		return
	}
	for _, meta := range metas {
		path := filepath.Join(folder, meta.ID)
		decode := len(i.Snapshots) == 0 || !i.provenOnly
		read, err := readSnapshotState(filepath.Join(path, snapshotState), meta, decode)
		if err != nil {
			i.faultySnapshot(path, snapshotState, err)
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
	for _, path := range slices.Sorted(maps.Keys(spoilt)) {
		i.faultySnapshot(path, snapshotMeta, spoilt[path])
	}
}

// describedSnapshots reads what all snapshots say of themselves, the newest first, and
// tells spoilt of each folder where that can't be believed.
func describedSnapshots(folder string, spoilt func(path string, err error)) (found []snapshotFile, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if _, ok := snapshotNamed(entry.Name()); !ok || !entry.IsDir() {
			continue // unfinished, or none: a lost+found, or a copy that somebody made
		}
		path := filepath.Join(folder, entry.Name())
		meta, err := readSnapshotMeta(path)
		if err != nil {
			spoilt(path, err)
			continue
		}
		found = append(found, meta)
	}
	slices.SortFunc(found, func(a, b snapshotFile) int { return -compareSnapshots(&a.SnapshotMeta, &b.SnapshotMeta) })
	return found, nil
}

// faultySnapshot is spare unless conclude finds that it is missed. Where a newer snapshot
// is whole, one that lacks a file is no fault: builds from before snapshotStore leave that
// when they end while they remove it.
func (i *inspection) faultySnapshot(path, file string, err error) {
	i.unusable = append(i.unusable, filepath.Base(path))
	named, ok := snapshotNamed(filepath.Base(path))
	if ok && errors.Is(err, errMissing) && i.isBehind(&named) {
		i.Leftovers = append(i.Leftovers, path)
		return
	}
	f := Fault{Path: filepath.Join(path, file), Index: named.Index, What: err, Help: helpDamaged, Spare: true}
	if errors.Is(err, errUnknownFormat) {
		f.Help = helpNewer
	}
	i.fault(f)
}

// isBehind says whether a newer snapshot is whole.
func (i *inspection) isBehind(one *raft.SnapshotMeta) bool {
	base, ok := snapshotNamed(i.base.ID)
	return ok && compareSnapshots(one, &base) < 0
}

// compareSnapshots is raft's order.
func compareSnapshots(a, b *raft.SnapshotMeta) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
}

// snapshotNamed gives what the name of its folder says of a snapshot that is complete.
func snapshotNamed(name string) (meta raft.SnapshotMeta, ok bool) {
	term, index, _, ok := logstore.SnapshotName(name)
	return raft.SnapshotMeta{ID: name, Term: term, Index: index}, ok
}

// newSnapshotMeta is of a snapshot that is begun now. Its Peers are empty: raft reads them in
// snapshots of version 0 alone.
func newSnapshotMeta(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64) (raft.SnapshotMeta, error) {
	if version != describedVersion {
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

func readSnapshotMeta(path string) (snapshotFile, error) {
	raw, err := os.ReadFile(filepath.Join(path, snapshotMeta))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return snapshotFile{}, errMissing
	case err != nil:
		return snapshotFile{}, err
	}
	meta, err := decodeDescription(raw)
	if err != nil {
		return meta, err
	}
	named, ok := snapshotNamed(filepath.Base(path))
	switch {
	case meta.Version != describedVersion:
		return meta, fmt.Errorf("%w: it is of version %d, this build reads version %d", errUnknownFormat, meta.Version, describedVersion)
	case !ok || meta.ID != named.ID || meta.Index != named.Index || meta.Term != named.Term:
		return meta, fmt.Errorf("it is about snapshot %q, entry %d of term %d, and does not fit the name of its folder", meta.ID, meta.Index, meta.Term)
	}
	return meta, nil
}

// openSnapshotState gives the state when its checksum has proven it.
func openSnapshotState(path string, meta snapshotFile) (state *os.File, err error) {
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
	case size != meta.Size:
		return nil, fmt.Errorf("it has %d bytes, and should have %d", size, meta.Size)
	case !bytes.Equal(sum.Sum(nil), meta.CRC):
		return nil, errChecksum
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}

// readSnapshotState reads the state twice: it is not decoded before the checksum
// has proven it. Without decode it is only proven.
func readSnapshotState(path string, meta snapshotFile, decode bool) (read restored, err error) {
	file, err := openSnapshotState(path, meta)
	if err != nil {
		return restored{}, err
	}
	defer func() { _ = file.Close() }() // it was only read
	if !decode {
		return restored{}, nil
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
