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
// the members type, title, status, detail, code, and error, which repeats detail.
// These are the codes:
//
//	400  invalid_json            the body is not the JSON that the call takes
//	400  damaged_backup          the body is no backup, or not all of one; nothing was changed
//	400  invalid_request         a value, header, query parameter or path is wrong
//	403  cross_origin            a browser sent it for a page of another origin
//	404  not_found               there is no such path
//	404  node_not_found          there is no such cache node
//	404  instance_not_found      there is no such instance
//	405  method_not_allowed      the header Allow names those that are
//	408  request_timeout         the body took too long to arrive
//	409  address_in_use          another node or instance has that address
//	409  registry_full           the registry takes no more
//	409  no_time_to_live         a heartbeat for a node that needs none
//	409  last_voter              the last voter can't go, nor hand over
//	409  no_majority_left        the voter can't go: too few of the others answer
//	409  not_voter               a nonvoter can't lead
//	409  id_mismatch             at the raft address answers an instance with another id
//	409  other_cluster           the instance belongs to another raft cluster
//	409  instance_too_old        the instance can't read what all of the cluster can
//	409  id_in_use               another process that bears the id is a member, and answers
//	412  precondition_failed     If-Match, If-None-Match or ifRevision; "node" is the current node, if any
//	413  body_too_large          more than Config.MaxBodyBytes
//	415  unsupported_media_type  the body is declared as something else than plain JSON
//	422  instance_unreachable    no instance answers at the raft address
//	500  internal                a fault of this program; its log says more
//	307  not_leader              Location names the leader
//	503  no_leader               no leader is known, or it can't be asked; nothing was written
//	503  not_leader              redirect=false, and only the leader can do it; "leader" names it
//	503  not_caught_up           a stale read of an instance that may lack most of what there is, or one with redirect=false that lacks something for too long
//	503  too_stale               no leader was heard from within max_stale
//	503  revision_not_reached    min_revision was not reached within wait
//	503  outcome_unknown         the write may have taken effect, or may yet
//	503  busy                    too many writes are waiting, or another restore is under way; nothing was written
//	503  upgrade_in_progress     an instance of the cluster can't read this kind of write yet; nothing was written
//	503  timeout                 it took too long; nothing was written
//	503  no_successor            leadership could not be handed over; nothing was changed
//	503  shutting_down           this instance is going; nothing was written
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
package httpapi
