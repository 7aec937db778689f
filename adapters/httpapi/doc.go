// Package httpapi is the application API: JSON over HTTP/1.1 and HTTP/2 without TLS, and
// streams of server-sent events. It translates requests into calls of the ports Nodes,
// Leases, Backups, Cluster, LeaderLocator, Local and JoinStatus, and their results into
// responses. It also has the client with which an instance asks another one for
// membership (JoinClient). Two parts of it are packages of their own: conns limits its
// connections, and frames sends its streams.
//
// It never decides what the registry allows, and keeps no state that outlives a request
// but bytes that it can encode again. What only the leader can answer is redirected to
// the leader.
//
// # Answers
//
// A handler returns an answer or an error, and writes neither: one table (problem.go)
// turns errors into statuses. Every error is a problem document (RFC 9457) with
// the members type, title, status, detail, code, and error, which repeats detail;
// docs/api.md says what each code means.
//
// Every 503 has "Retry-After: 1". A query parameter that a call does not know is refused,
// because to ignore it would answer another question. Only the calls about the instance
// itself (/livez and the like) ignore unknown parameters.
//
// When a request of HTTP/1 is refused before its body is read, the rest of the body is
// drained, so that a client that sends all of it before it reads gets the answer.
//
// # Who answers
//
// The parameters redirect and consistency choose between the leader, this instance
// as fresh as the leader, and this instance with what it has: see ports.Source.
// A call with redirect=false is never redirected; if only the leader can answer it, the
// answer is 503 not_leader.
//
// # Nodes
//
// Empty zone and labels and a zero ttlSeconds of a node are left out, and a default
// onExpiry if there is no ttlSeconds; all other fields are always there. On input an absent
// pool, weight or state means its default. slot, createdRevision and revision may be any
// number, and are ignored.
//
// # Streams
//
// The position of a stream is the header Last-Event-ID or the parameter since. The header
// takes precedence: a browser reconnects to the address that it was given, with its old
// since, and sends its current position in the header. An empty header is no position.
//
// Filters apply here and nowhere below: a filtered stream is a position in the same history
// as any other, and costs no more.
//
// A comment is followed by a blank line. To a standard parser that is no event, and it
// keeps parsers that split at blank lines from buffering hours of comments.
//
// An eventStream encodes its events into frames and sends them with a frames.Writer. The
// notifier wakes the streams after changes.
//
// # Connections
//
// A conns.Tracker limits how many connections are open, and how many of these have not sent
// their first request; above the second limit the oldest is closed. It tracks each body until
// it has arrived, and each answer of HTTP/2 until it is written: when the server closes, each
// gets a short deadline.
//
// # Processors
//
// Work that keeps a processor busy for long is limited, so that raft's heartbeats are
// handled in time: lists, snapshots and backups are encoded with a permit of
// listCache.encoding, and long bodies are copied into sockets by a writeLimiter.
package httpapi
