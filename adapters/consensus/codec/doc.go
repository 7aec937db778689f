// Package codec is the format of log entries and of snapshots: what the replicas of a registry
// have on their disks and send each other. It encodes, decodes and verifies, and knows in which
// format each kind of entry came.
//
// It never applies an entry, and knows neither raft nor files nor instances. Bytes that any
// build ever wrote stay readable, and what a newer build wrote is an error, never skipped.
// Everything in it is safe for concurrent use, as long as nobody modifies what was passed to it.
package codec
