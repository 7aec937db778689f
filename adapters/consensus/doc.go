// Package consensus is the only package that drives hashicorp/raft. It replicates the
// registry, proves leadership for linearizable reads, changes the membership of the raft
// cluster, replicates which nonvoters are to be promoted, and owns the state machine.
//
// The parts of it that do not need the rest are packages of their own: codec is the format
// of log entries and snapshots, disk stands between raft and the log store, snapshots keeps
// the snapshots, stream makes and accepts the connections between instances, and frames
// checks what peers send on them.
//
// It decides nothing about cache nodes: domain.Registry does, when a committed
// command is applied. It never stores an application address. It never answers a read
// from state that it has not proven fresh, except through ports.Local, which promises
// no freshness.
//
// # Around raft
//
// Node.start gives raft a transport, a log, a store for its term and vote, and a store for
// snapshots. Each is a stack of layers. A layer adds one thing, mostly one that raft 1.7.3
// lacks: its comment says which.
//
// The transport, from raft to the network:
//
//	interceptor         records what voters acknowledge (evidence) and when a leader was
//	                    heard from; snapshotFilter, electorate and votePolicy change, delay
//	                    or answer the requests that it relays from peers to raft
//	mutedTransport      sends nothing as a leader, and asks for no vote, while the disk is in trouble
//	addressedTransport  sends a message to an id at an address, not to whoever is there
//	raft.NetworkTransport
//	checkedStream       ends a connection on which a peer sends what no instance sends, with frames.Guard
//	stream.Stream       makes and accepts connections, which the preface has authenticated
//
// The log, from raft to the disk:
//
//	baseLog       finds the entry that the latest snapshot ends with, even after it was removed
//	retainingLog  keeps the entries behind a snapshot that is being sent
//	disk.Store    notices when the disk hangs or refuses, and tries again; caches the latest
//	              entries; lets a leader send entries that are not on its own disk yet
//	logstore.Store
//
// Term and vote go to the same disk.Store through voteGuard, which refuses the vote of an
// instance in quarantine. Snapshots go to a snapshots.Store, or a snapshots.Memory, through
// sizeRecorder, which tells logGrowth their size, baseRecorder, which tells baseLog their
// last entry, and metaAttacher, which tells machine their membership.
//
// # From a call to its answer
//
// A write is encoded (codec.EncodeEntry), given to raft in a group (groupCommit), and applied by
// machine, which updates the sharedState; a caller that waits for an index waits for the
// next update. For a read the gate proves that this instance leads, in a round of heartbeats
// that many reads share, or the leader is asked for such a proof; then the read waits until
// its index is applied. Node.Open starts the background goroutines.
package consensus
