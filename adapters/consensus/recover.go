package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// recoveredIndex is the configuration index of the snapshot that a recovery writes.
const recoveredIndex = 1

// Recovery turns an instance that is not running into a cluster of its own. All fields are
// required.
type Recovery struct {
	Directory *logstore.Directory // claimed for writing
	Backend   logstore.Backend
	// Self is the instance, as a voter, and the only member from then on: others may lack
	// entries that it takes for committed.
	Self   domain.Instance
	Logger *slog.Logger
}

// Recovered reports whether the directory is as a recovery leaves it, with nothing written
// since.
func (r *Report) Recovered(self domain.Instance) bool {
	return r.Quarantine == "" && r.LastIndex == 0 && r.RosterIndex == recoveredIndex && r.Roster.Equal(domain.NewRoster(self)) && r.Sound()
}

// Recover rewrites the membership, without a majority or any other instance, and takes all
// of the log for committed. The directory should be sound: see Inspect. If it is stopped at
// any point, the directory has all its data, and either the old membership or the new one;
// Recover may be repeated.
//
// It is for a cluster that has lost its majority for good: any instance that goes on with
// the old membership is in another cluster, although that has the same id.
func Recover(r Recovery) (err error) {
	// Raft panics on a log that it can't read.
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("raft panicked, most likely over a log that it can't read: %v", fault)
		}
	}()
	path := r.Directory.Path()
	store, err := r.Backend.Open(path, r.Logger)
	if err != nil {
		return fmt.Errorf("open the %s log store: %w", r.Backend.Name, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	roster := domain.NewRoster(r.Self)
	settings := raft.DefaultConfig()
	settings.LocalID = raft.ServerID(r.Directory.RaftID())
	settings.Logger = raftLogger(r.Logger, func() bool { return false })
	found := newInspection(r.Directory)
	found.readSnapshots()
	kept, err := snapshots.Open(path, found.unusable, r.Logger)
	if err != nil {
		return err
	}
	if err := refuseFutureSnapshots(kept, time.Now()); err != nil {
		return err
	}
	// After an entry that can't be applied, the machine makes no snapshot.
	machine := newMachine(newSharedState(ports.LocalState{}), func(error) {})
	// Raft only has the transport encode an address.
	_, transport := raft.NewInmemTransport("")
	logs := recoveryLog{Store: store, verify: func() error { return verifyRecovery(kept, roster) }}
	if logs.base, err = newestReplacingSnapshot(kept, store); err != nil {
		return err
	}
	if err := raft.RecoverCluster(settings, machine, logs, store, kept, transport, alone(r.Self.ID, r.Self.RaftAddress)); err != nil {
		return err
	}
	// The other members, for which a quarantine would wait, are gone.
	return errors.Join(r.Directory.Drop(peersName), r.Directory.Drop(quarantineName))
}

// refuseFutureSnapshots fails if a snapshot was made later than now: of two snapshots of the
// same index, raft takes the one made later, which must be the new one.
func refuseFutureSnapshots(kept raft.SnapshotStore, now time.Time) error {
	list, err := kept.List()
	if err != nil {
		return err
	}
	for _, snapshot := range list {
		if _, _, made, _ := logstore.SnapshotName(snapshot.ID); made >= now.UnixMilli() {
			return fmt.Errorf("snapshot %s was made at %s, and by the clock of this machine it is %s: set the clock",
				snapshot.ID, time.UnixMilli(made).UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// recoveryLog is a log that raft removes at the end of a recovery, but not before verify
// has found that the new snapshot replaces it.
type recoveryLog struct {
	logstore.Store
	verify func() error
	base   uint64 // last index of a snapshot that has replaced the entries after it; 0 for none
}

// newestReplacingSnapshot returns the last index of the newest snapshot if it has replaced
// the log; 0 if not.
func newestReplacingSnapshot(kept raft.SnapshotStore, log raft.LogStore) (uint64, error) {
	list, err := kept.List()
	if err != nil || len(list) == 0 || !isFromReplacedLog(log, list[0].Index, list[0].Term) {
		return 0, err
	}
	return list[0].Index, nil
}

// LastIndex implements raft.LogStore. It hides entries that a snapshot has replaced, so that
// they are not applied.
func (p recoveryLog) LastIndex() (uint64, error) {
	if p.base > 0 {
		return p.base, nil
	}
	return p.Store.LastIndex()
}

// DeleteRange implements raft.LogStore. Raft removes all that it knows of the log, so
// everything is removed, also the hidden entries.
func (p recoveryLog) DeleteRange(uint64, uint64) error {
	if err := p.verify(); err != nil {
		return err
	}
	return removeAll(p.Store)
}

// verifyRecovery reads back the snapshot that the next start would begin with.
func verifyRecovery(kept *snapshots.Store, roster domain.Roster) error {
	list, err := kept.List()
	if err != nil {
		return err
	}
	if len(list) == 0 || !rosterOf(list[0].Configuration).Equal(roster) {
		return errors.New("the snapshot with the new membership is not the newest one")
	}
	_, state, err := kept.Open(list[0].ID)
	if err != nil {
		return fmt.Errorf("the snapshot with the new membership: %w", err)
	}
	_, err = codec.ReadSnapshot(state)
	if err := errors.Join(err, state.Close()); err != nil {
		return fmt.Errorf("the snapshot with the new membership: %w", err)
	}
	// The log goes next: the snapshot's files must be durable in their folder by then.
	return kept.SyncFiles(list[0].ID)
}
