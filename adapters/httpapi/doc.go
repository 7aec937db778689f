// Package httpapi is the application API: JSON over HTTP/1.1 and HTTP/2 without
// TLS, and streams of server-sent events. It turns requests into questions to
// the ports Nodes, Leases, Backups, Cluster, Local and Joining, and what they answer into
// responses. It is also a client of the call with which an instance asks to be added
// (JoinClient).
//
// It never decides what the registry allows, never keeps state that outlives a
// request (what it keeps are bytes that it can encode again), and never answers
// for the leader: what only the leader can answer is redirected to it.
//
// # Answers
//
// A handler gives an answer or an error, and writes neither: one table (problem.go)
// turns errors into statuses. Every error is a problem document (RFC 9457) with
// the members type, title, status, detail, code, and error, which repeats detail;
// docs/api.md says what each code means.
//
// Every 503 has "Retry-After: 1". A query parameter that a call does not know is
// refused, because ignoring it would give an answer to another question; only
// what an instance says about itself (/livez and its like) takes any.
//
// # Who answers
//
// The parameters redirect and consistency choose between the leader, this instance
// as fresh as the leader, and this instance with what it has: see ports.Source.
// A call with redirect=false is never redirected. What only the leader can do is
// then 503 not_leader.
//
// # Nodes
//
// A node's zone and labels are left out where they are empty, ttlSeconds where there
// is none, and onExpiry where it says nothing; all other fields are always there. On input an absent pool, weight or state means its default,
// and slot, createdRevision and revision may be any number: they are ignored.
//
// # Streams
//
// A position is the header Last-Event-ID or the parameter since. The header wins:
// browsers reconnect to the address that they were given, with its old since,
// and say in the header how far they came. An empty header is no position.
//
// What a filter leaves out is left out here, and nowhere before: a filtered stream
// is the same position in the same history, so it costs no more than any other.
//
// A comment is followed by a blank line. For a parser of the standard that is no
// event, and it keeps parsers that cut at blank lines from collecting hours of
// comments in their buffer.
//
// # Connections
//
// A connection comes through the door, and is one of the guests until it is closed; there may
// be so many of them. It is one of the newcomers, too, until its first request has arrived:
// where these are many the oldest gives way. A body is an arrival until all of it has
// arrived, and an answer of HTTP/2 a departure until all of it was taken. Both are transfers:
// when the server closes, each has a little time left.
//
// A stream is written to a sink, which makes frames of events for its outlet: a wire, which
// is the connection itself, for HTTP/1.1, else a response of net/http. Waves wake the
// streams when something has changed.
//
// What keeps a processor busy for long is done for a few at a time, so that raft is heard:
// lists, snapshots and backups are encoded by who has one of listCache.making, and long
// bodies are copied into sockets in turns.
package httpapi
