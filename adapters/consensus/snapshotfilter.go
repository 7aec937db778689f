package consensus

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// snapshotFilter filters what a leader sends, so that raft 1.7.3 takes only what the Raft
// paper lets a follower take (Ongaro and Ousterhout, figure 2 and section 7). By itself
// raft deviates from it:
//
//   - It installs any snapshot, even one that it is ahead of: the state goes back, and the
//     log loses entries that it has acknowledged since.
//   - It looks only in the log for the entry at which its log and the leader's agree: it
//     refuses entries that its snapshot covers, and entries right behind the snapshot if
//     its log used to end there with another entry.
//   - It takes the leader's commit index for its own up to the end of its log, though the
//     end of the log may be of a deposed leader.
//
// A leader sends such requests when it keeps few entries behind its snapshots, because it
// is configured to or because the entries are large.
type snapshotFilter struct {
	log     *baseLog
	started *atomic.Pointer[raft.Raft] // nil before raft has started
	applied func() uint64              // the applied index; 0 before raft has started
}

// trim removes from a request the entries that the latest snapshot covers, all of which
// are committed. It lowers the request's commit index to the last entry that the
// request shows to be the leader's.
func (f *snapshotFilter) trim(request *raft.AppendEntriesRequest) {
	if request.LeaderCommitIndex == 0 && len(request.Entries) == 0 {
		return // a heartbeat says nothing of the log
	}
	base := f.log.base.Load()
	known := base != nil && f.overlaps(base, request)
	if known {
		for len(request.Entries) > 0 && request.Entries[0].Index <= base.Index {
			request.Entries = request.Entries[1:]
		}
		request.PrevLogEntry = base.Index
	}
	shown := request.PrevLogEntry + uint64(len(request.Entries))
	request.LeaderCommitIndex = min(request.LeaderCommitIndex, shown)
	if known {
		request.PrevLogEntry, request.PrevLogTerm = 0, 0 // raft need not look
	}
}

// overlaps says whether a request begins inside what the latest snapshot covers, or right
// behind it, and everything that the snapshot covers is here.
func (f *snapshotFilter) overlaps(base *raft.Log, request *raft.AppendEntriesRequest) bool {
	before := request.PrevLogEntry < base.Index || request.PrevLogEntry == base.Index && request.PrevLogTerm == base.Term
	return before && base.Index <= f.applied() && holds(f.log, base.Index, base.Term)
}

// holds says whether a log holds an entry, and so all entries before it.
func holds(log raft.LogStore, index, term uint64) bool {
	var entry raft.Log
	err := log.GetLog(index, &entry)
	return err == nil && entry.Term == term
}

// has says whether everything in a snapshot is here already: applied, or in the log. It is
// not enough that the snapshot is stored: raft then installs it again. A request of an
// earlier term is left to raft, which refuses it.
func (f *snapshotFilter) has(request *raft.InstallSnapshotRequest) bool {
	running := f.started.Load()
	if running == nil || request.Term < running.CurrentTerm() {
		return false
	}
	return request.LastLogIndex <= f.applied() || holds(f.log.stored, request.LastLogIndex, request.LastLogTerm)
}

// hasByNow is has when raft's main goroutine comes to the snapshot: since it arrived, that
// goroutine may have stored what is in it. Before raft is known to have started hasByNow
// returns true; the leader sends the snapshot again.
func (f *snapshotFilter) hasByNow(request *raft.InstallSnapshotRequest) bool {
	return f.started.Load() == nil || f.has(request)
}

var errCovered = errors.New("the log has reached the end of this snapshot meanwhile")

// unlessCovered reads a snapshot from a peer, unless covered returns true when raft's main
// goroutine begins to read. Then it discards the whole snapshot and fails with errCovered.
type unlessCovered struct {
	io.Reader
	covered func() bool
	decided bool
	refused error
}

// Read implements io.Reader.
func (u *unlessCovered) Read(p []byte) (int, error) {
	if !u.decided {
		u.decided = true
		if u.covered() {
			u.refused = errCovered
			_, _ = io.Copy(io.Discard, u.Reader) // an error here is one of the connection, which ends with it
		}
	}
	if u.refused != nil {
		return 0, u.refused
	}
	return u.Reader.Read(p)
}

// skip answers for raft to a snapshot whose content is here, once all of it has been
// received. Before raft has heard of the leader's term the answer is that the snapshot
// was not taken: the leader sends it again.
func (f *snapshotFilter) skip(rpc raft.RPC, request *raft.InstallSnapshotRequest) {
	if _, err := io.Copy(io.Discard, rpc.Reader); err != nil {
		rpc.Respond(nil, err)
		return
	}
	term := f.started.Load().CurrentTerm()
	rpc.Respond(&raft.InstallSnapshotResponse{Term: term, Success: term == request.Term}, nil)
}
