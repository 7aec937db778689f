package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// maxFaults is the number of faults after which an inspection stops reading the log.
const maxFaults = 16

// Report describes the directory of an instance that is not running.
type Report struct {
	Directory string
	Backend   string
	RaftID    string
	ClusterID string // empty as long as the instance belongs to no cluster

	// Blank: there is no raft state, and there never was any, or its loss is already known:
	// see Quarantine.
	Blank bool
	// Empty: there is no raft state, whether or not there should be.
	Empty bool
	// Quarantine is why the instance will be in quarantine at its next start; empty if it
	// will not be.
	Quarantine string

	Term     uint64
	VoteTerm uint64
	VotedFor string // id@address, or the address of itself; empty if it never voted

	// FirstIndex and LastIndex are of the log; both are 0 if it is empty.
	FirstIndex, LastIndex uint64
	// ReachIndex and ReachTerm are of the last entry, in the log or in a snapshot.
	// Of two directories of one cluster, the one with the higher term is more up to date,
	// and with equal terms the one with the higher index.
	ReachIndex, ReachTerm uint64

	Snapshots []SnapshotReport // the newest first
	// Leftovers are paths of snapshots that were being written or removed when the instance
	// ended: they are not needed, and the next start removes them.
	Leftovers []string

	// Roster is the membership that the instance would start with, and RosterIndex the
	// index of its entry.
	Roster      domain.Roster
	RosterIndex uint64

	// Revision and Nodes are of the registry, if all of the log is committed.
	Revision domain.Revision
	Nodes    int

	Faults []Fault

	newest         *preloadedSnapshot // the first of Snapshots; nil without any
	unusable       []string           // folder names of damaged snapshots
	damagedThrough uint64             // last index of a damaged entry that is spare; 0 for none
}

// SnapshotReport describes one intact snapshot.
type SnapshotReport struct {
	ID          string // the name of its folder
	Index, Term uint64 // of the last entry in it
	Size        int64
}

// Fault is something that is damaged, missing, or written by a newer build.
type Fault struct {
	Path  string // of the file, or the folder, in which it is
	Index uint64 // of the log entry, or of the snapshot; 0 for none
	What  error
	Help  string // what an operator can do; empty where What says that

	// Spare: the instance has everything without it.
	Spare bool
}

// Error implements error. It leaves out the help, which several faults may share.
func (f Fault) Error() string {
	if what := f.What.Error(); strings.Contains(what, f.Path) {
		return what
	}
	return fmt.Sprintf("%s: %v", f.Path, f.What)
}

// Unwrap returns What.
func (f Fault) Unwrap() error { return f.What }

// What can be done about a fault.
const (
	helpDamaged = logstore.HelpDamaged
	helpNewer   = "it is intact, but this build can't read it: use the version that wrote it, or a newer one"
	helpRefused = "it may be intact: see to the permissions and to the disk, and try again"
	helpCovered = "the newest snapshot has it: the next start removes it"
	helpSpare   = "the instance has all without it: move it away"
	helpCluster = "log and snapshots are proven by their checksums, and instance.json has none; if it is damaged, write the cluster id that they have into it; if somebody has put them beside it, put back what belongs together, or let the instance join anew with an empty directory"
)

// errTwoClusters says that the manifest and the state are of two clusters. The state must
// not be set aside then: the cluster that would have to send it again may not exist.
var errTwoClusters = errors.New("instance.json names another cluster than log and snapshots")

// Sound reports whether all faults are spare.
func (r *Report) Sound() bool {
	return !slices.ContainsFunc(r.Faults, func(f Fault) bool { return !f.Spare })
}

// Inspect reads everything in the directory of an instance that is not running, as raft
// would at its start and more, and changes nothing. It logs a warning about findings that
// are no faults. It returns an error only if ctx ends first; everything else is in the
// report.
func Inspect(ctx context.Context, directory *logstore.Directory, backend logstore.Backend, logger *slog.Logger) (Report, error) {
	i := newInspection(directory)
	if backend.Volatile {
		i.Blank = true
		return i.Report, nil
	}
	i.readSnapshots()
	store, err := backend.Inspect(directory.Path(), logger)
	switch {
	case errors.Is(err, logstore.ErrNoStore):
		i.withoutStore()
		return i.Report, nil
	case err != nil:
		i.addFault(Fault{Path: i.logPath, What: err})
		return i.Report, nil
	}
	defer func() { _ = store.Close() }() // it was only read
	return i.read(ctx, store)
}

// inspectOpen is Inspect for a store that is already open, at the start of an instance. It
// verifies the checksums of entries, and of all snapshots but the newest, without decoding
// them: raft applies the entries later.
func inspectOpen(ctx context.Context, directory *logstore.Directory, store logstore.Store) (Report, error) {
	i := newInspection(directory)
	i.checksumsOnly = true
	i.readSnapshots()
	return i.read(ctx, store)
}

func newInspection(directory *logstore.Directory) *inspection {
	i := &inspection{
		Report: Report{
			Directory: directory.Path(),
			Backend:   directory.Backend(),
			RaftID:    directory.RaftID(),
			ClusterID: directory.ClusterID(),
		},
		logPath: logstore.Backend{Name: directory.Backend()}.Path(directory.Path()),
	}
	i.machine = newMachine(newSharedState(ports.LocalState{}), func(error) {})
	var err error
	if i.Quarantine, err = quarantineReason(directory); err != nil {
		i.addFault(Fault{Path: filepath.Join(i.Directory, quarantineName), What: err})
	}
	return i
}

func (i *inspection) read(ctx context.Context, store logstore.Store) (Report, error) {
	i.readStableState(store)
	if err := i.readLog(ctx, store); err != nil {
		return Report{}, err
	}
	i.conclude()
	return i.Report, nil
}

// inspection is the state of Inspect or inspectOpen.
type inspection struct {
	Report
	logPath string

	// base is the newest intact snapshot, from which raft would start. machine starts from
	// it, and applies the log up to the first fault, after which stopped is set.
	base    SnapshotReport
	machine *machine
	stopped bool

	checksumsOnly bool // entries are not decoded

	complete     bool // the log has every entry from base to its end
	hasTerm      bool
	termReported bool // a term above the current term was reported; once is enough
}

// addFault records f. What the system refuses to read may be intact, so it is neither taken
// for damaged nor for spare.
func (i *inspection) addFault(f Fault) {
	if logstore.IsRefusal(f.What) {
		f.Help, f.Spare = helpRefused, false
	}
	i.Faults = append(i.Faults, f)
}

func (i *inspection) addDamage(path string, index uint64, what error) {
	i.addFault(Fault{Path: path, Index: index, What: what, Help: helpDamaged})
}

// withoutStore concludes the inspection of a directory that has no log store.
func (i *inspection) withoutStore() {
	i.Blank = (i.ClusterID == "" || i.Quarantine != "") && len(i.Snapshots) == 0 && len(i.Faults) == 0
	if !i.Blank {
		i.addDamage(i.logPath, 0, errors.New("it is missing, or was never written, though the directory holds the state of a cluster"))
	}
}

func (i *inspection) readStableState(store logstore.Store) {
	number := func(key []byte, into *uint64) (found bool) {
		value, err := store.GetUint64(key)
		if err != nil && !errors.Is(err, logstore.ErrKeyNotFound) {
			i.addDamage(i.logPath, 0, fmt.Errorf("stable state: %s: %w", key, err))
		}
		*into = value
		return err == nil
	}
	i.hasTerm = number(logstore.TermKey, &i.Term)
	number(logstore.VoteTermKey, &i.VoteTerm)
	candidate, err := store.Get(logstore.VoteCandidateKey)
	if err != nil && !errors.Is(err, logstore.ErrKeyNotFound) {
		i.addDamage(i.logPath, 0, fmt.Errorf("stable state: %s: %w", logstore.VoteCandidateKey, err))
	}
	i.VotedFor = string(candidate)
	if i.VoteTerm > i.Term {
		i.addDamage(i.logPath, 0, fmt.Errorf("stable state: the vote is of term %d, which the current term, %d, has not come to", i.VoteTerm, i.Term))
	}
}

// readLog reads every entry, and applies those after the base.
func (i *inspection) readLog(ctx context.Context, store logstore.Store) error {
	var err, other error
	i.FirstIndex, err = store.FirstIndex()
	i.LastIndex, other = store.LastIndex()
	if err := errors.Join(err, other); err != nil {
		i.addDamage(i.logPath, 0, fmt.Errorf("its bounds can't be read: %w", err))
		return nil
	}
	if i.LastIndex <= i.base.Index {
		// Raft would go on from the snapshot.
		i.complete = true
	} else if i.FirstIndex > i.base.Index+1 {
		i.addDamage(i.logPath, i.FirstIndex, fmt.Errorf("the log begins with entry %d, and no snapshot that is whole reaches further than entry %d: what lies between is missing",
			i.FirstIndex, i.base.Index))
		i.stopped = true
	}
	if i.FirstIndex == 0 {
		return nil
	}
	var before uint64 // term of the previous entry; 0 if there is none
	for index := i.FirstIndex; index <= i.LastIndex; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(i.Faults) >= maxFaults {
			i.addDamage(i.logPath, index, fmt.Errorf("entry %d and those behind it were not read: there is too much damage", index))
			return nil
		}
		entry, err := readEntry(store, index)
		if errors.Is(err, raft.ErrLogNotFound) && index <= i.base.Index {
			// Raft leaves such a gap when it installs a snapshot.
			before = 0
			continue
		}
		if errors.Is(err, raft.ErrLogNotFound) {
			i.addDamage(i.logPath, index, fmt.Errorf("entry %d is missing, and the log goes on to entry %d", index, i.LastIndex))
			return nil
		}
		if index == i.base.Index+1 {
			before = 0 // earlier entries may be of a log that the snapshot has replaced
		}
		if err == nil {
			err = i.check(entry, before)
		}
		if err != nil {
			i.stopped = i.stopped || index > i.base.Index
			i.addEntryFault(entry, index, err)
			before = 0
			continue
		}
		if i.isReplaced(entry) {
			break // the next start removes the rest
		}
		before = entry.Term
		if index > i.base.Index {
			i.apply(entry)
		}
	}
	i.complete = i.complete || !i.stopped
	return nil
}

// isReplaced reports whether the base has replaced the log from entry on: see
// isFromReplacedLog.
func (i *inspection) isReplaced(entry *raft.Log) bool {
	return entry.Index == i.base.Index && entry.Term != i.base.Term || entry.Index == i.base.Index+1 && entry.Term < i.base.Term
}

// readEntry turns panics of the store over a damaged entry into errors.
func readEntry(store logstore.Store, index uint64) (entry *raft.Log, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	entry = new(raft.Log)
	return entry, store.GetLog(index, entry)
}

// errUnknownFormat is about data whose checksum is right.
var errUnknownFormat = errors.New("unknown format")

// isOfUnknownFormat reports whether err is about data that is intact, and that this build can't
// read.
func isOfUnknownFormat(err error) bool {
	return errors.Is(err, errUnknownFormat) || errors.Is(err, snapshots.ErrUnknownFormat)
}

// check returns what is wrong with entry, given the term of the entry before it.
func (i *inspection) check(entry *raft.Log, before uint64) error {
	switch {
	case entry.Term < before:
		return fmt.Errorf("it is of term %d, and the one before of term %d", entry.Term, before)
	case i.hasTerm && entry.Term > i.Term && !i.termReported:
		i.termReported = true
		return fmt.Errorf("it is of term %d, which the current term, %d, has not come to", entry.Term, i.Term)
	}
	switch entry.Type {
	case raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		_, err := decodeConfiguration(entry.Data)
		return err
	case raft.LogCommand:
		if i.checksumsOnly {
			return codec.VerifyEntry(entry.Data)
		}
		_, err := codec.DecodeEntry(entry.Data)
		if err == nil {
			return nil
		}
		if damaged := codec.VerifyEntry(entry.Data); damaged == nil {
			return fmt.Errorf("%w: %w", errUnknownFormat, err)
		}
		return err
	}
	return fmt.Errorf("it is of type %d, which raft does not write", entry.Type)
}

// decodeConfiguration is raft.DecodeConfiguration with an error instead of a panic.
func decodeConfiguration(data []byte) (configuration raft.Configuration, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("the membership in it can't be read: %v", fault)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}

func (i *inspection) addEntryFault(entry *raft.Log, index uint64, err error) {
	f := Fault{Path: i.logPath, Index: index, Help: helpDamaged, Spare: index <= i.base.Index}
	if errors.Is(err, errUnknownFormat) {
		f.Help = helpNewer
	}
	f.What = fmt.Errorf("entry %d: %w", index, err)
	if entry != nil && entry.Index != 0 && entry.Index != index {
		f.What = fmt.Errorf("entry %d: it says that it is entry %d", index, entry.Index)
	}
	i.addFault(f)
}

// apply applies an entry as raft would at its start.
func (i *inspection) apply(entry *raft.Log) {
	if i.stopped {
		return
	}
	if entry.Type == raft.LogConfiguration {
		configuration, _ := decodeConfiguration(entry.Data) // check has decoded it before
		i.Roster, i.RosterIndex = rosterOf(configuration), entry.Index
	}
	if i.checksumsOnly {
		i.learnCluster(entry)
	} else {
		i.machine.Apply(entry)
	}
	i.ReachIndex, i.ReachTerm = entry.Index, entry.Term
}

// learnCluster takes the cluster id from the first opening, if there is no snapshot.
func (i *inspection) learnCluster(entry *raft.Log) {
	if i.machine.clusterID != "" || entry.Type != raft.LogCommand {
		return
	}
	decoded, _ := codec.DecodeEntry(entry.Data) // an entry that can't be decoded has no cluster id
	if opened, ok := decoded.(codec.Opening); ok {
		i.machine.clusterID = opened.ClusterID
	}
}

func rosterOf(configuration raft.Configuration) domain.Roster {
	instances := make([]domain.Instance, 0, len(configuration.Servers))
	for _, server := range configuration.Servers {
		suffrage := domain.Nonvoter
		if server.Suffrage == raft.Voter {
			suffrage = domain.Voter
		}
		instances = append(instances, domain.Instance{ID: string(server.ID), RaftAddress: string(server.Address), Suffrage: suffrage})
	}
	return domain.NewRoster(instances...)
}

// conclude compares what was read in different places, and decides which faults are spare.
func (i *inspection) conclude() {
	view := i.machine.registry.View()
	i.Revision, i.Nodes = view.Revision(), view.Len()
	empty := i.LastIndex == 0 && len(i.Snapshots) == 0 && i.Term == 0
	i.Empty = empty && len(i.Faults) == 0
	manifest := i.ClusterID
	switch {
	case empty && (manifest == "" || i.Quarantine != "") && len(i.Faults) == 0:
		i.Blank = true
	case empty:
		i.addDamage(i.logPath, 0, errors.New("it is empty, though the directory holds the state of a cluster; only if the first start with --bootstrap_raft_cluster was of a build that left no mark of it, and was cut off, is this no damage"))
	case !i.hasTerm:
		i.addDamage(i.logPath, 0, errors.New("stable state: the current term is missing"))
	case i.ReachTerm > i.Term:
		i.addDamage(i.logPath, 0, fmt.Errorf("stable state: the current term is %d, and there is an entry of term %d", i.Term, i.ReachTerm))
	}
	if replicated := i.machine.clusterID; manifest != "" && replicated != "" && manifest != replicated {
		i.addFault(Fault{Path: i.Directory, Help: helpCluster,
			What: fmt.Errorf("%w: it has %q, and they have %q", errTwoClusters, manifest, replicated)})
	}
	for at := range i.Faults {
		f := &i.Faults[at]
		// Raft starts from the base even if it does not reach as far as a damaged snapshot.
		f.Spare = f.Spare && i.complete && f.Index != 0 && f.Index <= max(i.base.Index, i.LastIndex)
		switch {
		case f.Spare && f.Path == i.logPath:
			i.damagedThrough = max(i.damagedThrough, f.Index)
			if f.Help == helpDamaged {
				f.Help = helpCovered
			}
		case f.Spare:
			f.Help = helpSpare
		}
	}
}
