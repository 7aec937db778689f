package consensus

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// covered has raft 1.7.3 take from a leader what the Raft paper lets a follower take
// (Ongaro and Ousterhout, figure 2 and section 7), where it does otherwise:
//
//   - It installs any snapshot, also of what it has: the state goes back to that, and
//     with the log goes what it has acknowledged since.
//   - It looks for the place where its log and the leader's agree in the log alone: what
//     a snapshot covers is refused. So is what comes right behind that, where its log ended
//     there with another entry before.
//   - It takes for committed what the leader says is, up to the end of its own log, which
//     may be of a leader that was deposed.
//
// A leader sends such things when it keeps few entries behind its snapshots: because
// that is what it was told, or because they are large.
type covered struct {
	log *baseLog
	// started is nil while raft takes nothing.
	started *atomic.Pointer[raft.Raft]
	applied func() uint64 // how far the state machine is; 0 before raft has started
}

// trim leaves of a request what is not covered by the latest snapshot, all of which
// was committed, and says of no more than it shows that it is.
func (c *covered) trim(request *raft.AppendEntriesRequest) {
	if request.LeaderCommitIndex == 0 && len(request.Entries) == 0 {
		return // a heartbeat, which says nothing of the log
	}
	base := c.log.base.Load()
	known := base != nil && c.shows(base, request)
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

// shows says whether a request begins with what the latest snapshot covers, or right behind
// it, and all of that is here.
func (c *covered) shows(base *raft.Log, request *raft.AppendEntriesRequest) bool {
	before := request.PrevLogEntry < base.Index || request.PrevLogEntry == base.Index && request.PrevLogTerm == base.Term
	return before && base.Index <= c.applied() && holds(c.log, base.Index, base.Term)
}

// holds says whether a log holds an entry, and with it all before.
func holds(log raft.LogStore, index, term uint64) bool {
	var entry raft.Log
	err := log.GetLog(index, &entry)
	return err == nil && entry.Term == term
}

// has says whether everything is here that is in a snapshot: applied, or in the log. A
// snapshot that is only stored is for raft to install again. So is it for raft to refuse
// what is older than this instance's term.
func (c *covered) has(request *raft.InstallSnapshotRequest) bool {
	running := c.started.Load()
	if running == nil || request.Term < running.CurrentTerm() {
		return false
	}
	return request.LastLogIndex <= c.applied() || holds(c.log.stored, request.LastLogIndex, request.LastLogTerm)
}

// hasByNow is has for raft's main goroutine, which may have had something else to do since
// the snapshot came: to store what is in it. Before raft is known to have started it is taken
// for so; the leader sends it again.
func (c *covered) hasByNow(request *raft.InstallSnapshotRequest) bool {
	return c.started.Load() == nil || c.has(request)
}

var errCovered = errors.New("what is in this snapshot has arrived meanwhile")

// needed is what a peer sends as long as raft needs it, which is decided when raft begins to
// read, in its main goroutine. What is not needed is refused once all of it has come.
type needed struct {
	io.Reader
	unless  func() bool
	decided bool
	refused error
}

// Read implements io.Reader.
func (n *needed) Read(p []byte) (int, error) {
	if !n.decided {
		n.decided = true
		if n.unless() {
			n.refused = errCovered
			_, _ = io.Copy(io.Discard, n.Reader) // what fails here fails with the connection
		}
	}
	if n.refused != nil {
		return 0, n.refused
	}
	return n.Reader.Read(p)
}

// skip answers for a snapshot that is here, once all of it has come. Until raft has
// heard of the leader's term it is not taken: the leader sends it again.
func (c *covered) skip(rpc raft.RPC, request *raft.InstallSnapshotRequest) {
	if _, err := io.Copy(io.Discard, rpc.Reader); err != nil {
		rpc.Respond(nil, err)
		return
	}
	term := c.started.Load().CurrentTerm()
	rpc.Respond(&raft.InstallSnapshotResponse{Term: term, Success: term == request.Term}, nil)
}
