// Package snapshots keeps the snapshots of one instance for raft, as folders on disk (Store) or
// in memory (Memory), and tells what snapshots a directory has before raft does (Read). Every
// rule about what is synced when, what is removed when, and how a damaged or unfinished
// snapshot is told from a complete one is here.
//
// It never looks into a state, which to it is bytes with a checksum. It decides neither when a
// snapshot is made, nor what becomes of an instance whose snapshots are damaged.
//
// A snapshot is written, and removed, in a folder whose name ends with .tmp. So one under its
// own name is complete, whenever the process or the machine stops, unless a build from before
// Store was removing it.
//
// The files are those of raft.FileSnapshotStore, and each reads what the other writes:
//
//	snapshots/<term>-<index>-<milliseconds>/meta.json  the description: membership, size and
//	                                                   checksum of the state, and a checksum
//	                                                   of all that, which raft's own lacks
//	snapshots/<term>-<index>-<milliseconds>/state.bin  the state
package snapshots
