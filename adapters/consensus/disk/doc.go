// Package disk stands between raft and the log store of one instance. Raft 1.7.3 takes for
// granted that a disk answers, and answers soon. A Store notices when the disk hangs or
// returns errors, retries what raft must not be told has failed, caches the latest entries,
// and lets a leader send entries before they are on its own disk.
//
// A Store never tells raft that something is stored which is not, except for the entries that
// a leader sends ahead. It never decodes an entry, and decides nothing about leadership or
// votes. So the package that uses a Store has to
//
//   - give raft no acknowledgement of an entry before Await has returned true for it;
//   - send nothing as a leader, and ask for no vote, while Fault returns an error;
//   - stop waiting for the outcome of an entry, which is unknown, once Stalled is closed;
//   - call RaftStarted once raft has started, and run WatchDirectory in a goroutine;
//   - call StopRetrying before it shuts raft down, and Close after that.
//
// A Store is made of layers, from raft to the disk:
//
//	Store       lets a leader send entries that are not on its own disk yet
//	entryCache  caches the latest entries
//	watch       notices when the disk hangs or returns errors, and retries
//	logstore.Store
package disk
