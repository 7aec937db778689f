// Package codec encodes, decodes and verifies log entries and snapshots: the bytes that the
// replicas of a registry keep on their disks and send to each other. It also knows which
// version of the format introduced each kind of entry.
//
// It never applies an entry, and knows nothing of raft, files or instances. What any earlier
// build wrote stays readable. What only a newer build can write is an error, and never skipped.
// All functions are safe for concurrent use, as long as nobody modifies their arguments.
package codec
