package consensus

import "github.com/hashicorp/raft"

// electorate decides which candidates raft takes for voters.
type electorate struct {
	// members returns the latest membership in this instance's log, and lastEntry the
	// index and term of the log's last entry.
	members   func() []raft.Server
	lastEntry func() (index, term uint64, known bool)
}

// enfranchise makes raft skip its check that a candidate is a voter if this instance can't
// know: a candidate whose log is ahead may have a later membership. Raft 1.7.3 goes by
// its own membership, and refuses. Suppose one of two voters was away when the other
// became a voter, and the third voter is gone: without this the two could elect nobody.
//
// A membership decides whose votes a candidate counts, and whether an instance stands for
// election. A voter gives its vote to any candidate whose log is up to date (Ongaro's
// thesis, section 4.1).
func (e *electorate) enfranchise(command any) {
	switch request := command.(type) {
	case *raft.RequestPreVoteRequest:
		if e.isBehind(request.LastLogIndex, request.LastLogTerm) {
			request.ID = e.voter(request.ID) // raft uses the id for that check only
		}
	case *raft.RequestVoteRequest:
		if e.isBehind(request.LastLogIndex, request.LastLogTerm) {
			request.ID = e.voter(request.ID) // the vote is stored with the candidate's own id: see interceptor.forward
		}
	}
}

// voter returns id if this instance knows it as a voter, otherwise the id of any voter.
func (e *electorate) voter(id []byte) []byte {
	known := id
	for _, member := range e.members() {
		switch {
		case member.Suffrage != raft.Voter:
		case member.ID == raft.ServerID(id):
			return id
		default:
			known = []byte(member.ID)
		}
	}
	return known
}

// isBehind says whether this instance's log is behind that of a candidate, whose last
// entry has index and term. It returns false if this log's last entry is not known.
func (e *electorate) isBehind(index, term uint64) bool {
	ownIndex, ownTerm, known := e.lastEntry()
	return known && (term > ownTerm || term == ownTerm && index > ownIndex)
}
