// Package disk stands between raft and the log store of one instance. Raft 1.7.3 takes for
// granted that a disk answers, and answers soon; a Store notices when the disk hangs or
// refuses, tries again where raft could not cope with an error, caches the latest entries,
// and lets a leader send entries before they are on its own disk.
//
// It never tells raft that something is stored which is not, but for what a leader sends
// ahead. It never decodes an entry, and decides nothing about leadership or votes: what an
// instance in trouble must not do is the part of the Store's owner, who
//
//   - gives raft no acknowledgement of an entry before Await has returned true for it;
//   - sends nothing as a leader, and asks for no vote, while Fault returns an error;
//   - tells those who wait for an entry that its outcome is unknown once Stalled is closed;
//   - calls RaftStarted once raft has started, and runs WatchDirectory beside it;
//   - calls StopRetrying before raft is shut down, and Close after that.
//
// A Store is made of layers, from raft to the disk:
//
//	Store       lets a leader send entries that are not on its own disk yet
//	entryCache  caches the latest entries
//	watch       notices when the disk hangs or refuses, and tries again
//	logstore.Store
package disk
