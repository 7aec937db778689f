package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// recoveredIndex is where raft says that the membership was written which a
// recovery made.
const recoveredIndex = 1

// Recovery makes an instance that does not run a cluster of its own.
// All fields are required.
type Recovery struct {
	Directory *logstore.Directory // claimed for writing
	Backend   logstore.Backend
	// Self is the instance, a voter, and all that belongs to the cluster from then on: what
	// it takes for committed, others may not have.
	Self   domain.Instance
	Logger *slog.Logger
}

// Recovered says whether the directory is as a recovery leaves it, with nothing written
// since.
func (r *Report) Recovered(self domain.Instance) bool {
	return r.Quarantine == "" && r.LastIndex == 0 && r.RosterIndex == recoveredIndex && r.Roster.Equal(domain.NewRoster(self)) && r.Sound()
}

// Recover rewrites the membership, without a majority and without asking anybody,
// and takes all of the log for committed. The directory should be sound: see
// Inspect. Stopped at any point it leaves the directory with the old membership or
// with the new one, and everything in it; it may be done again.
//
// It is for a cluster that has lost its majority for good: an instance that goes
// on with the old membership is in another cluster, though it has the same name.
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
	snapshots, err := openSnapshots(path, found.unusable, r.Logger)
	if err != nil {
		return err
	}
	if err := refuseFuture(snapshots, time.Now()); err != nil {
		return err
	}
	// What can't be applied keeps the machine from making a snapshot.
	machine := newMachine(newSharedState(ports.LocalState{}), func(error) {})
	// Raft asks the transport how to write an address, and for nothing else.
	_, transport := raft.NewInmemTransport("")
	logs := provenFirst{Store: store, prove: func() error { return proveRecovery(path, snapshots, roster) }}
	if logs.base, err = replacing(snapshots, store); err != nil {
		return err
	}
	if err := raft.RecoverCluster(settings, machine, logs, store, snapshots, transport, configurationOf(roster)); err != nil {
		return err
	}
	// Those whom it would wait for are gone.
	return errors.Join(r.Directory.Drop(peersName), r.Directory.Drop(quarantineName))
}

// refuseFuture refuses to make a snapshot that would look older than one that is
// there: of two that reach equally far, raft goes by their time.
func refuseFuture(snapshots raft.SnapshotStore, now time.Time) error {
	list, err := snapshots.List()
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

func configurationOf(roster domain.Roster) (configuration raft.Configuration) {
	for _, instance := range roster.Instances() {
		configuration.Servers = append(configuration.Servers, raft.Server{
			Suffrage: raft.Voter,
			ID:       raft.ServerID(instance.ID),
			Address:  raft.ServerAddress(instance.RaftAddress),
		})
	}
	return configuration
}

// provenFirst is a log of which nothing is removed before prove has found that it
// is superfluous. Raft removes all of it at the end of a recovery.
type provenFirst struct {
	logstore.Store
	prove func() error
	base  uint64 // where a snapshot ends that has replaced what is behind it; 0 for none
}

// replacing gives the index with which the newest snapshot ends, where the log behind
// that is of another one; 0 where it is not.
func replacing(snapshots raft.SnapshotStore, log raft.LogStore) (uint64, error) {
	list, err := snapshots.List()
	if err != nil || len(list) == 0 || !isReplaced(log, list[0].Index, list[0].Term) {
		return 0, err
	}
	return list[0].Index, nil
}

// LastIndex implements raft.LogStore: what a snapshot has replaced is not carried out.
func (p provenFirst) LastIndex() (uint64, error) {
	if p.base > 0 {
		return p.base, nil
	}
	return p.Store.LastIndex()
}

// DeleteRange implements raft.LogStore: it is what raft removes all with, and all goes.
func (p provenFirst) DeleteRange(uint64, uint64) error {
	if err := p.prove(); err != nil {
		return err
	}
	return removeAll(p.Store)
}

// proveRecovery reads back the snapshot that a start would begin with.
func proveRecovery(path string, snapshots raft.SnapshotStore, roster domain.Roster) error {
	list, err := snapshots.List()
	if err != nil {
		return err
	}
	if len(list) == 0 || !rosterOf(list[0].Configuration).Equal(roster) {
		return errors.New("the snapshot with the new membership is not the newest one")
	}
	_, state, err := snapshots.Open(list[0].ID)
	if err != nil {
		return fmt.Errorf("the snapshot with the new membership: %w", err)
	}
	_, err = readSnapshot(state)
	if err := errors.Join(err, state.Close()); err != nil {
		return fmt.Errorf("the snapshot with the new membership: %w", err)
	}
	// Raft makes its files durable and where its folder lies, not that they lie in it.
	return logstore.SyncDir(filepath.Join(path, logstore.SnapshotsFolder, list[0].ID))
}
