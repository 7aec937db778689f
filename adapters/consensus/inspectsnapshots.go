package consensus

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// readSnapshots reads all snapshots, and takes the newest intact one for the base, as raft
// does.
func (i *inspection) readSnapshots() {
	found, err := snapshots.Read(i.Directory)
	if err != nil {
		i.addDamage(filepath.Join(i.Directory, logstore.SnapshotsFolder), 0, err)
		return
	}
	i.Leftovers = found.Unfinished
	for _, snapshot := range found.Described {
		decode := len(i.Snapshots) == 0 || !i.checksumsOnly
		read, err := readSnapshotState(snapshot, decode)
		if err != nil {
			i.faultySnapshot(snapshot.StatePath(), err)
			continue
		}
		report := SnapshotReport{ID: snapshot.ID, Index: snapshot.Index, Term: snapshot.Term, Size: snapshot.Size}
		if len(i.Snapshots) == 0 {
			i.base = report
			i.machine.setState(read)
			i.newest = &preloadedSnapshot{snapshot.ID, read}
			i.Roster, i.RosterIndex = rosterOf(snapshot.Configuration), snapshot.ConfigurationIndex
			i.ReachIndex, i.ReachTerm = snapshot.Index, snapshot.Term
		}
		i.Snapshots = append(i.Snapshots, report)
	}
	for _, damage := range found.Damaged {
		i.faultySnapshot(damage.Path, damage.Err)
	}
}

// faultySnapshot records a snapshot that can't be used because of one of its files, as spare;
// conclude decides whether it is. A snapshot that lacks a file is no fault if a newer one is
// intact: builds from before snapshots.Store leave such a folder when they are stopped while
// they remove it.
func (i *inspection) faultySnapshot(file string, err error) {
	folder := filepath.Dir(file)
	id := filepath.Base(folder)
	i.unusable = append(i.unusable, id)
	if errors.Is(err, snapshots.ErrMissing) && snapshots.IsOlder(id, i.base.ID) {
		i.Leftovers = append(i.Leftovers, folder)
		return
	}
	_, index, _, _ := logstore.SnapshotName(id)
	f := Fault{Path: file, Index: index, What: err, Help: helpDamaged, Spare: true}
	if isOfUnknownFormat(err) {
		f.Help = helpNewer
	}
	i.addFault(f)
}

// readSnapshotState verifies the state and, if decode is set, then reads it again to decode
// it.
func readSnapshotState(snapshot snapshots.Snapshot, decode bool) (read codec.Restored, err error) {
	state, err := snapshot.OpenState()
	if err != nil {
		return codec.Restored{}, err
	}
	defer func() { _ = state.Close() }() // it was only read
	if !decode {
		return codec.Restored{}, nil
	}
	read, err = codec.ReadSnapshot(state)
	switch {
	case err != nil:
		return codec.Restored{}, fmt.Errorf("%w: %w", errUnknownFormat, err)
	case read.Applied > snapshot.Index:
		return codec.Restored{}, fmt.Errorf("it holds entry %d, and is said to end with entry %d", read.Applied, snapshot.Index)
	}
	return read, nil
}
