package consensus

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// A follower that is sent a snapshot needs the entries behind it next. Raft cuts the
// log behind every snapshot that it makes meanwhile, whoever is on the way: where a
// snapshot takes longer to send than it takes until the next one, a follower under full
// load would be sent one after the other, and never catch up. So the leader keeps
// these entries, as long as they take no more than what growth finds worth keeping.

// owed is what is kept for whom. Safe for concurrent use.
type owed struct {
	mu    sync.Mutex
	debts map[raft.ServerID]debt
}

type debt struct {
	term uint64
	base raft.Log // what the snapshot ends with, of which only index and term are known
	// last: the follower has all that there was a moment ago. The next cut leaves what
	// it may lack, and those after that need not.
	last bool
}

func newOwed() *owed { return &owed{debts: map[raft.ServerID]debt{}} }

func (o *owed) begin(id raft.ServerID, snapshot *raft.InstallSnapshotRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.debts[id] = debt{
		term: snapshot.Term,
		base: raft.Log{Index: snapshot.LastLogIndex, Term: snapshot.LastLogTerm, Type: standIn},
	}
}

// end is for who is sent another snapshot, if any.
func (o *owed) end(id raft.ServerID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.debts, id)
}

func (o *owed) endSoon(id raft.ServerID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d, known := o.debts[id]; known {
		d.last = true
		o.debts[id] = d
	}
}

// cut gives the index up to which the log may be cut in term, at most to, so that what
// is owed stays; but nothing that is owed since before oldest.
func (o *owed) cut(term, to, oldest uint64) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, d := range o.debts {
		if d.term == term && d.base.Index >= oldest {
			to = min(to, d.base.Index)
		}
		if d.term != term || d.base.Index < oldest || d.last {
			delete(o.debts, id)
		}
	}
	return to
}

// based gives the entry at index, where something is owed behind it: raft looks for the
// one before those that it sends.
func (o *owed) based(index uint64) (raft.Log, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.debts {
		if d.base.Index == index {
			return d.base, true
		}
	}
	return raft.Log{}, false
}

// owingLog is raft's log, of which the leader keeps what it owes.
type owingLog struct {
	raft.LogStore
	owed  *owed
	leads func() (term uint64, leads bool)
	worth func() uint64 // how many entries at the end are worth keeping
}

// GetLog implements raft.LogStore. See baseLog, which does the same for the latest
// snapshot.
func (l owingLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.LogStore.GetLog(index, entry)
	if err != raft.ErrLogNotFound {
		return err
	}
	base, known := l.owed.based(index)
	if !known || index > 1 && l.finds(index-1) {
		return err
	}
	*entry = base
	return nil
}

// finds says whether the entry before another one is found, be it only as what is owed: then
// raft would send the other one for what it is.
func (l owingLog) finds(index uint64) bool {
	_, known := l.owed.based(index)
	return known || l.LogStore.GetLog(index, new(raft.Log)) != raft.ErrLogNotFound
}

// DeleteRange implements raft.LogStore. A leader removes only the beginning of its
// log, and may leave any of it for another time. Who follows also removes the end,
// where others have agreed on something else.
func (l owingLog) DeleteRange(from, to uint64) error {
	if term, leads := l.leads(); leads {
		last, err := l.LastIndex()
		if err != nil {
			return err
		}
		to = l.owed.cut(term, to, last-min(last, l.worth()))
	}
	if to < from {
		return nil
	}
	return l.LogStore.DeleteRange(from, to)
}

// InstallSnapshot implements raft.Transport.
func (i *interceptor) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	i.config.owed.begin(id, args)
	err := i.transport.InstallSnapshot(id, target, args, resp, data)
	if err != nil || !resp.Success {
		i.config.owed.end(id)
	}
	if err != nil {
		i.awaitReturn(id, args.Term)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport. Raft makes one when the other side
// has all that there was a moment ago.
func (i *interceptor) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	i.config.owed.endSoon(id)
	inner, err := i.transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(inner, func(request *raft.AppendEntriesRequest, done <-chan struct{}) bool {
		i.config.acknowledged(id, request)
		return i.awaitStored(request, done)
	}, func(term uint64) { i.awaitReturn(id, term) }), nil
}
