package consensus

import "github.com/hashicorp/raft"

// enfranchise has raft ask of a candidate all but whether it is a voter, where this
// instance can't know: what has a later end of the log may have a later membership in
// it. Raft 1.7.3 goes by its own, and refuses. So two voters could elect nobody of whom
// one was away when the other became a voter, though the third has gone meanwhile.
//
// A membership decides whose votes a candidate counts, and whether an instance stands for
// election; whoever is asked for its vote gives it to any candidate whose log is no
// older than its own (Ongaro's thesis, section 4.1).
func (w *witness) enfranchise(command any) {
	if w.members == nil {
		return
	}
	switch request := command.(type) {
	case *raft.RequestPreVoteRequest:
		if w.isBehind(request.LastLogIndex, request.LastLogTerm) {
			request.ID = w.voter(request.ID) // raft asks of it nothing else
		}
	case *raft.RequestVoteRequest:
		if w.isBehind(request.LastLogIndex, request.LastLogTerm) {
			request.ID = w.voter(request.ID) // the vote is given to an address
		}
	}
}

// voter gives id if this instance knows it for a voter, or else any voter's.
func (w *witness) voter(id []byte) []byte {
	known := id
	for _, member := range w.members() {
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

// isBehind says whether this instance's log ends before that of a candidate, which
// ends with an entry of index and term. An end that is not known is not before any.
func (w *witness) isBehind(index, term uint64) bool {
	ownIndex, ownTerm, known := w.lastEntry()
	return known && (term > ownTerm || term == ownTerm && index > ownIndex)
}
