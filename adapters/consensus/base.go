package consensus

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// baseLog is raft's log, in which the entry that the latest snapshot ends with can
// be looked up when it is not stored any more: its term is all that anybody asks
// for then.
//
// Raft 1.7.3 looks for the entry before those that it is sent nowhere but in the
// log. A follower that was sent a snapshot, and entries that no leader committed,
// refuses what the next leader has for it, is sent that one's snapshot instead,
// which may be older than its own, and so on, until there is a newer one.
//
// What of the log the snapshot replaces has to go. Raft 1.7.3 leaves it there when it
// installs one, as long as it keeps entries behind a snapshot: entries that no leader
// committed, which it would compare with what the leader sends, and send to others.
type baseLog struct {
	raft.LogStore
	stored raft.LogStore // what LogStore has, and nothing that is not stored
	base   atomic.Pointer[raft.Log]
	// applied says how far the state machine is; 0 before raft has started.
	applied func() uint64
}

// standIn is the type of what is found in the place of an entry that is not stored any more.
// Its index and its term are those of the entry, and nothing else is.
const standIn = raft.LogType(math.MaxUint8)

// errStandIn is told to raft, which tries again, and finds that a snapshot has to be sent.
var errStandIn = errors.New("the log was cut while a message was made of it")

// sendable refuses a message with an entry of which nothing is there but a stand-in. It was
// looked up when a snapshot had just replaced it, and the entry before not long ago.
func sendable(args *raft.AppendEntriesRequest) error {
	if slices.ContainsFunc(args.Entries, func(l *raft.Log) bool { return l.Type == standIn }) {
		return errStandIn
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
	// A snapshot that could not be restored is stored. Who took its end for an entry would
	// acknowledge what comes behind it, and lack what comes before.
	if base.Index > l.applied() {
		return err
	}
	// Raft sends the entry to those who have the one before: who needs that one and this
	// is sent a snapshot.
	if index == 1 || l.LogStore.GetLog(index-1, new(raft.Log)) != raft.ErrLogNotFound {
		return err
	}
	*entry = *base
	return nil
}

// LastIndex implements raft.LogStore. Raft 1.7.3 asks for it at the start, and then only to
// know by how much the log is ahead of the latest snapshot. It takes a log that ends before
// for one that is ahead by nearly everything: while nothing is written an instance whose log
// is empty would make the same snapshot again and again.
func (l *baseLog) LastIndex() (uint64, error) {
	last, err := l.LogStore.LastIndex()
	if base := l.base.Load(); err == nil && base != nil {
		last = max(last, min(base.Index, l.applied()))
	}
	return last, err
}

func (l *baseLog) rest(index, term uint64) {
	if base := l.base.Load(); base == nil || base.Index < index {
		l.base.Store(&raft.Log{Index: index, Term: term, Type: standIn})
	}
}

// standOn begins the log with the snapshot that was found at the start. What that
// replaces should have gone when it was installed, or with the next entry: the instance
// ended before.
func (l *baseLog) standOn(index, term uint64) error {
	l.rest(index, term)
	replaced := isReplaced(l.stored, index, term)
	if err := l.clear(index, term); err != nil || !replaced {
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

// isReplaced says whether what a log has behind a snapshot, which ends with an entry of
// term, is of another log than that: of one that the snapshot replaced.
func isReplaced(log raft.LogStore, index, term uint64) bool {
	var entry raft.Log
	if log.GetLog(index, &entry) == nil {
		return entry.Term != term
	}
	return log.GetLog(index+1, &entry) == nil && entry.Term < term
}

// clear removes the beginning of the log up to index, where it does not have the entry
// of term that a snapshot ends with. What comes behind that is left, as raft goes on
// believing in it; it is of no leader, and goes with the next entry. It must not be
// called before the state machine is sure to take the snapshot: raft goes on with the
// log where that fails.
func (l *baseLog) clear(index, term uint64) error {
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

// basing is raft's store of snapshots, which tells a log what it rests on.
type basing struct {
	raft.SnapshotStore
	log *baseLog
}

func newBasing(snapshots raft.SnapshotStore, log *baseLog) (*basing, error) {
	present, err := snapshots.List()
	if err != nil {
		return nil, err
	}
	if len(present) > 0 {
		if err := log.standOn(present[0].Index, present[0].Term); err != nil {
			return nil, err
		}
	}
	return &basing{snapshots, log}, nil
}

// Create implements raft.SnapshotStore.
func (b *basing) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, network raft.Transport) (raft.SnapshotSink, error) {
	sink, err := b.SnapshotStore.Create(version, index, term, members, membersIndex, network)
	if err != nil {
		return nil, err
	}
	return &basingSink{sink, b.log, index, term}, nil
}

type basingSink struct {
	raft.SnapshotSink
	log         *baseLog
	index, term uint64
}

var errOutrun = errors.New("a later snapshot was installed meanwhile")

// Close implements raft.SnapshotSink: the snapshot is complete. Raft 1.7.3 takes it for the
// latest one then, also where it has installed a later one since it began to make this: its
// log would end before what it has acknowledged, and it would vote for who has less. The disk may
// take long enough for that here too; what it has then is the one before the latest.
func (s *basingSink) Close() error {
	if s.isOutrun() {
		return errors.Join(errOutrun, s.Cancel())
	}
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	if s.isOutrun() {
		return errOutrun
	}
	s.log.rest(s.index, s.term)
	return nil
}

func (s *basingSink) isOutrun() bool {
	base := s.log.base.Load()
	return base != nil && base.Index > s.index && base.Index <= s.log.applied()
}
