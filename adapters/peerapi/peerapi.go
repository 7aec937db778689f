// Package peerapi is the small HTTP API that instances ask each other, on a lane of
// the raft port beside raft's. It tells who an instance is, where its application
// API is, how far it has applied the log, and, if it leads, a read index. Server
// answers, Client asks.
//
// If the instances share a secret, both sides prove that they know it before the
// first request of a connection. The API never changes anything. It does not check
// whether the instance that answers is the expected one, or belongs to the same
// cluster: the caller must.
package peerapi

import (
	"net"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// Lane is the first byte of a connection to this API.
const Lane byte = 0x02

// MaxOpen is how many connections the lane holds at once. Anybody can connect, so the
// bound keeps strangers from using up the file descriptors of raft and of the application
// API; peers need one or two each.
const MaxOpen = 256

// LaneConfig returns the handshake and the bound of the lane, for the instance named
// raftID. With a preface, connections must go through it. If it is nil, they begin with a
// request, and those that begin with a preface are refused.
func LaneConfig(raftID string, secret *preface.Preface) demux.LaneConfig {
	config := demux.LaneConfig{
		MaxOpen:   MaxOpen,
		Handshake: func(conn net.Conn) (net.Conn, error) { return preface.AcceptWithout(raftID, conn) },
	}
	if secret != nil {
		config.Handshake = func(conn net.Conn) (net.Conn, error) { return conn, secret.Accept(conn) }
	}
	return config
}

const (
	metadataPath  = "/metadata"
	readIndexPath = "/read-index"
)

// notLeader is the code of the answer to GET /read-index by an instance that does not
// lead. secretRequired is that of a preface's answer to a connection without one.
const (
	notLeader      = "not_leader"
	secretRequired = "secret_required"
)

// metadata is the answer to GET /metadata. Instances of other versions read it:
// fields may be added, never renamed, and unknown ones are ignored.
type metadata struct {
	ApplicationAddress string `json:"application_address"`
	RaftID             string `json:"raft_id"`
	ClusterID          string `json:"cluster_id"`
	Version            string `json:"version"`
	AppliedIndex       uint64 `json:"applied_index,omitzero"`
	Format             uint16 `json:"format,omitzero"`
	Quarantined        bool   `json:"quarantined,omitzero"`
	Process            string `json:"process,omitzero"`
}

// readIndex is the answer to GET /read-index. The same rules hold for its fields.
type readIndex struct {
	RaftID    string `json:"raft_id"`
	ClusterID string `json:"cluster_id"`
	Index     uint64 `json:"index"`
	// Members are the ids of the members of the cluster.
	Members []string `json:"members,omitempty"`
}

// problem is every other answer, in the shape of RFC 9457, as in the application API.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Error  string `json:"error"`
}
