package consensus

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// baseLog is raft's log, in which the last entry of the latest snapshot (the base) is found
// also when it is not stored any more. Only its term is needed then.
//
// Raft 1.7.3 looks up the entry that precedes an append only in the log. A follower that was
// sent a snapshot, and then entries that were never committed, refuses what the next leader
// appends. It is sent that leader's snapshot instead, which may be older than its own, and
// so on, until there is a newer snapshot.
//
// The part of the log that a snapshot replaces has to be removed. Raft 1.7.3 leaves it in
// place when it installs a snapshot, as long as it keeps trailing entries: it would compare
// uncommitted entries with what the leader sends, and send them to others.
type baseLog struct {
	raft.LogStore
	stored raft.LogStore // LogStore without the bases of retained entries
	base   atomic.Pointer[raft.Log]
	// applied returns raft's applied index; 0 before raft has started.
	applied func() uint64
}

// placeholderType is the type of a placeholder for an entry that is not stored any more. It
// has the entry's index and term, and nothing else of it.
const placeholderType = raft.LogType(math.MaxUint8)

// errLogCut makes raft try again; then it finds that it has to send a snapshot.
var errLogCut = errors.New("the log was cut while a message was made of it")

// checkSendable refuses a message with a placeholder among its entries. Raft reads one if a
// snapshot replaces the entry just after raft has read the entry before it.
func checkSendable(args *raft.AppendEntriesRequest) error {
	if slices.ContainsFunc(args.Entries, func(l *raft.Log) bool { return l.Type == placeholderType }) {
		return errLogCut
	}
	return nil
}

// GetLog implements raft.LogStore.
func (l *baseLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.LogStore.GetLog(index, entry)
	base := l.base.Load()
	if err != raft.ErrLogNotFound || base == nil || index != base.Index {
		return err
	}
	// A snapshot may be stored and yet fail to be restored. An instance that took its end
	// for an entry would acknowledge entries after it, and lack those before.
	if base.Index > l.applied() {
		return err
	}
	// If the entry before is stored, raft would send this one as a real entry. When this
	// is not found, raft sends a snapshot.
	if index == 1 || l.LogStore.GetLog(index-1, new(raft.Log)) != raft.ErrLogNotFound {
		return err
	}
	*entry = *base
	return nil
}

// LastIndex implements raft.LogStore. After the start, raft 1.7.3 only uses it to compute by
// how much the log is ahead of the latest snapshot. If the log ended before the snapshot,
// that difference would wrap around: an idle instance with an empty log would make the same
// snapshot again and again.
func (l *baseLog) LastIndex() (uint64, error) {
	last, err := l.LogStore.LastIndex()
	if base := l.base.Load(); err == nil && base != nil {
		last = max(last, min(base.Index, l.applied()))
	}
	return last, err
}

// setBase takes note of a snapshot that ends with an entry, unless it has a later base.
func (l *baseLog) setBase(index, term uint64) {
	if base := l.base.Load(); base == nil || base.Index < index {
		l.base.Store(&raft.Log{Index: index, Term: term, Type: placeholderType})
	}
}

// startFrom sets the base to the latest snapshot at the start, and removes what that has
// replaced of the log: if the instance ended while it installed the snapshot, this is still
// there.
func (l *baseLog) startFrom(index, term uint64) error {
	l.setBase(index, term)
	replaced := isFromReplacedLog(l.stored, index, term)
	if err := l.dropReplaced(index, term); err != nil || !replaced {
		return err
	}
	return removeAll(l.stored)
}

func removeAll(log raft.LogStore) error {
	first, err := log.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	return log.DeleteRange(first, last)
}

// isFromReplacedLog reports whether the entries of log from index on conflict with a
// snapshot that ends with the entry of index and term, which has replaced them.
func isFromReplacedLog(log raft.LogStore, index, term uint64) bool {
	var entry raft.Log
	if log.GetLog(index, &entry) == nil {
		return entry.Term != term
	}
	return log.GetLog(index+1, &entry) == nil && entry.Term < term
}

// dropReplaced removes the log up to index, unless it has the entry of index and term with
// which a snapshot ends. It leaves later entries, which raft still takes for its own: no
// leader has them, and the next append replaces them. It must not be called before the
// state machine is certain to take the snapshot: if that fails, raft goes on with the log.
func (l *baseLog) dropReplaced(index, term uint64) error {
	first, err := l.stored.FirstIndex()
	if err != nil || first == 0 || first > index {
		return err
	}
	var entry raft.Log
	switch err := l.stored.GetLog(index, &entry); {
	case err == nil && entry.Term == term:
		return nil
	case err != nil && err != raft.ErrLogNotFound:
		return err
	}
	last, err := l.stored.LastIndex()
	if err != nil {
		return err
	}
	return l.stored.DeleteRange(first, min(index, last))
}

// baseRecorder is a snapshot store that tells baseLog where its snapshots end.
type baseRecorder struct {
	raft.SnapshotStore
	log *baseLog
}

func newBaseRecorder(snapshots raft.SnapshotStore, log *baseLog) (*baseRecorder, error) {
	present, err := snapshots.List()
	if err != nil {
		return nil, err
	}
	if len(present) > 0 {
		if err := log.startFrom(present[0].Index, present[0].Term); err != nil {
			return nil, err
		}
	}
	return &baseRecorder{snapshots, log}, nil
}

// Create implements raft.SnapshotStore.
func (b *baseRecorder) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, network raft.Transport) (raft.SnapshotSink, error) {
	sink, err := b.SnapshotStore.Create(version, index, term, members, membersIndex, network)
	if err != nil {
		return nil, err
	}
	return &baseSink{sink, b.log, index, term}, nil
}

type baseSink struct {
	raft.SnapshotSink
	log         *baseLog
	index, term uint64
}

var errSuperseded = errors.New("a later snapshot was installed meanwhile")

// Close implements raft.SnapshotSink: the snapshot is complete. Raft 1.7.3 then takes it for
// the latest one, even if it has installed a later one since it began to write this: its log
// would seem to end before what it has acknowledged, and it would vote for candidates that
// lack that. So Close fails then, also if the later one came while the disk was writing; in
// that case this snapshot stays in the store, as the one before the latest.
func (s *baseSink) Close() error {
	if s.isSuperseded() {
		return errors.Join(errSuperseded, s.Cancel())
	}
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	if s.isSuperseded() {
		return errSuperseded
	}
	s.log.setBase(s.index, s.term)
	return nil
}

func (s *baseSink) isSuperseded() bool {
	base := s.log.base.Load()
	return base != nil && base.Index > s.index && base.Index <= s.log.applied()
}
