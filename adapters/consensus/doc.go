// Package consensus drives hashicorp/raft: it replicates the registry, proves
// leadership for linearizable reads, changes the membership of the raft cluster, keeps
// the wishes of who is to be promoted in it, and keeps the state machine and the format
// of log entries and of snapshots. It is the only package that does.
//
// It decides nothing about cache nodes: domain.Registry does, when a committed
// command is applied. It never keeps an application address, and never answers
// a read from state whose freshness it has not proven, except through
// ports.Local, which promises none.
//
// # Around raft
//
// Raft is given a transport, a log, a place for its term and its vote, and a store of
// snapshots (Node.start). Each is a stack of which every layer does one thing more, mostly
// what raft 1.7.3 leaves out: the comment of the layer says what that is.
//
// The transport, from raft to the network:
//
//	witness    notes what voters acknowledge (evidence), and when a leader was heard; what
//	           others send comes through it to raft, which covered, electorate and ballot
//	           change, hold back or answer
//	muted      sends nothing in the name of a leader whose disk is in trouble
//	addressed  says whom a message is for, beside where to
//	raft.NetworkTransport
//	checked    ends a connection on which a peer announces more than an instance sends
//	stream     has the connections that are through the preface
//
// The log, from raft to the disk:
//
//	baseLog    finds the entry that the latest snapshot ends with, also when it is gone
//	owingLog   keeps what an instance needs behind the snapshot that it is sent
//	ahead      has a leader send what is not on its own disk yet
//	logs       is a cache of the latest entries
//	disk       notices when the disk hangs or refuses, and tries again
//	logstore.Store
//
// Term and vote go to the same disk through voteless, which refuses the vote of an instance
// in quarantine. Snapshots go to a snapshotStore, or to memorySnapshots, through measured,
// which tells growth of their size, basing, which tells baseLog of their end, and
// describing, which tells machine of their membership.
//
// # From a call to its answer
//
// A write is encoded (entry.go), given to raft in a group (groupCommit), and applied by
// machine, which updates the sharedState; whoever waits for an index waits for the next
// update. For a read the gate proves that this instance leads, in a round of heartbeats that
// many reads share, or the leader is asked for such a proof; then it waits until the state
// has come as far. What runs beside that is started in Node.Open.
package consensus
