package consensus

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// A follower that is sent a snapshot needs the entries after it next. Raft truncates the
// log after every snapshot that it makes meanwhile, without regard to such followers. If
// sending a snapshot takes longer than the interval between two snapshots, as under full
// load, the follower would be sent one snapshot after the other and never catch up. So the
// leader retains these entries, as long as they take no more than logGrowth allows.

// retention records the entries that the leader retains for followers which it sends a
// snapshot. Safe for concurrent use.
type retention struct {
	mu        sync.Mutex
	followers map[raft.ServerID]retainedLog
}

type retainedLog struct {
	term uint64
	base raft.Log // last entry of the snapshot; only its index and term are known
	// oneMoreCut: the follower has just caught up with the log. The next cut still leaves
	// what it may lack, later ones need not.
	oneMoreCut bool
}

func newRetention() *retention { return &retention{followers: map[raft.ServerID]retainedLog{}} }

func (r *retention) retain(id raft.ServerID, snapshot *raft.InstallSnapshotRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followers[id] = retainedLog{
		term: snapshot.Term,
		base: raft.Log{Index: snapshot.LastLogIndex, Term: snapshot.LastLogTerm, Type: placeholderType},
	}
}

// release ends what is retained for id, which needs another snapshot, if anything.
func (r *retention) release(id raft.ServerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.followers, id)
}

func (r *retention) releaseAfterCut(id raft.ServerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, known := r.followers[id]; known {
		d.oneMoreCut = true
		r.followers[id] = d
	}
}

// limit returns the index, to at most, up to which a leader in term may cut its log so that
// the retained entries stay. It gives up retention that begins before oldest.
func (r *retention) limit(term, to, oldest uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.followers {
		if d.term == term && d.base.Index >= oldest {
			to = min(to, d.base.Index)
		}
		if d.term != term || d.base.Index < oldest || d.oneMoreCut {
			delete(r.followers, id)
		}
	}
	return to
}

// baseAt returns the entry at index if entries after it are retained: raft looks up the
// entry before those that it sends.
func (r *retention) baseAt(index uint64) (raft.Log, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.followers {
		if d.base.Index == index {
			return d.base, true
		}
	}
	return raft.Log{}, false
}

// retainingLog is raft's log, of which a leader retains what its followers need.
type retainingLog struct {
	raft.LogStore
	retention  *retention
	leads      func() (term uint64, leads bool)
	affordable func() uint64 // how many entries at the end of the log may be retained
}

// GetLog implements raft.LogStore. See baseLog, which does the same for the latest
// snapshot.
func (l retainingLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.LogStore.GetLog(index, entry)
	if err != raft.ErrLogNotFound {
		return err
	}
	base, known := l.retention.baseAt(index)
	if !known || index > 1 && l.has(index-1) {
		return err
	}
	*entry = base
	return nil
}

// has reports whether GetLog finds the entry at index, also if only as the base of what is
// retained: then raft would send the entry after it as a real one.
func (l retainingLog) has(index uint64) bool {
	_, known := l.retention.baseAt(index)
	return known || l.LogStore.GetLog(index, new(raft.Log)) != raft.ErrLogNotFound
}

// DeleteRange implements raft.LogStore. A leader only removes the beginning of its log, and
// may keep any of it for later. A follower also removes the end, where it conflicts with
// the leader's log.
func (l retainingLog) DeleteRange(from, to uint64) error {
	if term, leads := l.leads(); leads {
		last, err := l.LastIndex()
		if err != nil {
			return err
		}
		to = l.retention.limit(term, to, last-min(last, l.affordable()))
	}
	if to < from {
		return nil
	}
	return l.LogStore.DeleteRange(from, to)
}

// InstallSnapshot implements raft.Transport.
func (i *interceptor) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	i.config.retention.retain(id, args)
	err := i.transport.InstallSnapshot(id, target, args, resp, data)
	if err != nil || !resp.Success {
		i.config.retention.release(id)
	}
	if err != nil {
		i.awaitReturn(id, args.Term)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport. Raft starts a pipeline when the follower
// has just caught up.
func (i *interceptor) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	i.config.retention.releaseAfterCut(id)
	inner, err := i.transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(inner, func(request *raft.AppendEntriesRequest, done <-chan struct{}) bool {
		i.config.acknowledged(id, request)
		return i.awaitStored(request, done)
	}, func(term uint64) { i.awaitReturn(id, term) }), nil
}
