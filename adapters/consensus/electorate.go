package consensus

import "github.com/hashicorp/raft"

// electorate is who may be voted for.
type electorate struct {
	// members are those of the latest membership in this instance's log, and lastEntry
	// is what that ends with.
	members   func() []raft.Server
	lastEntry func() (index, term uint64, known bool)
}

// enfranchise has raft ask of a candidate all but whether it is a voter, where this
// instance can't know: what has a later end of the log may have a later membership in
// it. Raft 1.7.3 goes by its own, and refuses. So two voters could elect nobody of whom
// one was away when the other became a voter, though the third has gone meanwhile.
//
// A membership decides whose votes a candidate counts, and whether an instance stands for
// election; whoever is asked for its vote gives it to any candidate whose log is no
// older than its own (Ongaro's thesis, section 4.1).
func (e *electorate) enfranchise(command any) {
	switch request := command.(type) {
	case *raft.RequestPreVoteRequest:
		if e.isBehind(request.LastLogIndex, request.LastLogTerm) {
			request.ID = e.voter(request.ID) // raft asks of it nothing else
		}
	case *raft.RequestVoteRequest:
		if e.isBehind(request.LastLogIndex, request.LastLogTerm) {
			request.ID = e.voter(request.ID) // the vote is kept with its own: see witness.forward
		}
	}
}

// voter gives id if this instance knows it for a voter, or else any voter's.
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

// isBehind says whether this instance's log ends before that of a candidate, which
// ends with an entry of index and term. An end that is not known is not before any.
func (e *electorate) isBehind(index, term uint64) bool {
	ownIndex, ownTerm, known := e.lastEntry()
	return known && (term > ownTerm || term == ownTerm && index > ownIndex)
}
