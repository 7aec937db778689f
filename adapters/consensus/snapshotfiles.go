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

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
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

var (
	stateTable = crc64.MakeTable(crc64.ECMA)
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// errMissing says that a snapshot lacks one of its files.
var errMissing = errors.New("it is missing")

// snapshotDescription is the content of meta.json. Its last member is a checksum of all
// before it, because the membership, for one, is stored nowhere else. Builds from before the
// checksum ignore it, and write exactly the same bytes without it.
type snapshotDescription struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64 (ECMA) of the state
}

// encodeUnsealed encodes the description without its checksum.
func (f snapshotDescription) encodeUnsealed() ([]byte, error) {
	raw, err := json.Marshal(f)
	return append(raw, '\n'), err
}

func (f snapshotDescription) encode() ([]byte, error) {
	raw, err := f.encodeUnsealed()
	return sealDescription(bytes.TrimSuffix(raw, []byte("}\n"))), err
}

// sealDescription appends the checksum, and the end of the JSON object, to body.
func sealDescription(body []byte) []byte {
	return fmt.Appendf(bytes.Clone(body), descriptionSeal, crc32.Checksum(body, castagnoli))
}

const (
	descriptionSeal       = `,"Checksum":"%08x"}` + "\n" // CRC-32C
	descriptionSealLength = len(`,"Checksum":"01234567"}` + "\n")
)

// decodeDescription verifies the checksum. A description without one must have exactly the
// bytes that builds from before the checksum write.
func decodeDescription(raw []byte) (f snapshotDescription, err error) {
	body := raw[:max(0, len(raw)-descriptionSealLength)]
	proven := bytes.Equal(raw, sealDescription(body))
	if err := json.Unmarshal(raw, &f); err != nil || proven {
		return f, err
	}
	if plain, err := f.encodeUnsealed(); err != nil || f.Version != snapshotMetaVersion || !bytes.Equal(raw, plain) {
		return f, codec.ErrChecksum
	}
	return f, nil
}

// readSnapshots reads all snapshots, and takes the newest intact one for the base, as raft
// does.
func (i *inspection) readSnapshots() {
	folder := filepath.Join(i.Directory, logstore.SnapshotsFolder)
	damaged := map[string]error{}
	metas, err := readSnapshotMetas(folder, func(path string, err error) { damaged[path] = err })
	if err == nil {
		i.Leftovers, err = logstore.FilesNamed(folder, "", unfinishedSuffix)
	}
	if err != nil {
		i.addDamage(folder, 0, err)
		return
	}
	for _, meta := range metas {
		path := filepath.Join(folder, meta.ID)
		decode := len(i.Snapshots) == 0 || !i.checksumsOnly
		read, err := readSnapshotState(filepath.Join(path, snapshotState), meta, decode)
		if err != nil {
			i.faultySnapshot(path, snapshotState, err)
			continue
		}
		found := SnapshotReport{ID: meta.ID, Index: meta.Index, Term: meta.Term, Size: meta.Size}
		if len(i.Snapshots) == 0 {
			i.base = found
			i.machine.setState(read)
			i.newest = &preloadedSnapshot{meta.ID, read}
			i.Roster, i.RosterIndex = rosterOf(meta.Configuration), meta.ConfigurationIndex
			i.ReachIndex, i.ReachTerm = meta.Index, meta.Term
		}
		i.Snapshots = append(i.Snapshots, found)
	}
	for _, path := range slices.Sorted(maps.Keys(damaged)) {
		i.faultySnapshot(path, snapshotMeta, damaged[path])
	}
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

// faultySnapshot records a snapshot that can't be used, as spare; conclude decides whether
// it is. A snapshot that lacks a file is no fault if a newer one is intact: builds from
// before snapshotStore leave such a folder when they are stopped while they remove it.
func (i *inspection) faultySnapshot(path, file string, err error) {
	i.unusable = append(i.unusable, filepath.Base(path))
	named, ok := parseSnapshotName(filepath.Base(path))
	if ok && errors.Is(err, errMissing) && i.isBehind(&named) {
		i.Leftovers = append(i.Leftovers, path)
		return
	}
	f := Fault{Path: filepath.Join(path, file), Index: named.Index, What: err, Help: helpDamaged, Spare: true}
	if errors.Is(err, errUnknownFormat) {
		f.Help = helpNewer
	}
	i.addFault(f)
}

// isBehind reports whether a newer snapshot is intact.
func (i *inspection) isBehind(one *raft.SnapshotMeta) bool {
	base, ok := parseSnapshotName(i.base.ID)
	return ok && compareSnapshots(one, &base) < 0
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

func readSnapshotMeta(path string) (snapshotDescription, error) {
	raw, err := os.ReadFile(filepath.Join(path, snapshotMeta))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return snapshotDescription{}, errMissing
	case err != nil:
		return snapshotDescription{}, err
	}
	meta, err := decodeDescription(raw)
	if err != nil {
		return meta, err
	}
	named, ok := parseSnapshotName(filepath.Base(path))
	switch {
	case meta.Version != snapshotMetaVersion:
		return meta, fmt.Errorf("%w: it is of version %d, this build reads version %d", errUnknownFormat, meta.Version, snapshotMetaVersion)
	case !ok || meta.ID != named.ID || meta.Index != named.Index || meta.Term != named.Term:
		return meta, fmt.Errorf("it is about snapshot %q, entry %d of term %d, and does not fit the name of its folder", meta.ID, meta.Index, meta.Term)
	}
	return meta, nil
}

// openSnapshotState opens the state after it has verified its size and checksum.
func openSnapshotState(path string, meta snapshotDescription) (state *os.File, err error) {
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
		return nil, codec.ErrChecksum
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}

// readSnapshotState verifies the state and, if decode is set, then reads it again to decode
// it.
func readSnapshotState(path string, meta snapshotDescription, decode bool) (read codec.Restored, err error) {
	file, err := openSnapshotState(path, meta)
	if err != nil {
		return codec.Restored{}, err
	}
	defer func() { _ = file.Close() }() // it was only read
	if !decode {
		return codec.Restored{}, nil
	}
	read, err = codec.ReadSnapshot(file)
	switch {
	case err != nil:
		return codec.Restored{}, fmt.Errorf("%w: %w", errUnknownFormat, err)
	case read.Applied > meta.Index:
		return codec.Restored{}, fmt.Errorf("it holds entry %d, and is said to end with entry %d", read.Applied, meta.Index)
	}
	return read, nil
}
