// Package peerapi is what instances ask one another on the raft port: one small
// HTTP API, on a lane of its own beside raft's, that says who answers here, where
// its application API is, how far it has come in the log, and, if it leads, how far
// another instance has to be to answer a read. Server answers, Client asks.
//
// Where the instances share a secret both sides prove that they know it, before the
// first question of a connection. The API never changes anything, and never decides
// whether an answer is the one that was hoped for: that an address now belongs to
// another instance, or to another cluster, is for the asker to notice.
package peerapi

import (
	"net"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

// Lane is the first byte of a connection to this API.
const Lane byte = 0x02

// MaxOpen is how many connections the lane holds at once. Whoever connects here may
// have proved nothing, so the bound keeps strangers from using up the file descriptors
// of raft and of the application API; peers need one or two each.
const MaxOpen = 256

// LaneConfig is what the lane of the instance named raftID asks of connections: with a
// preface, that they go through it; nil: that they do without, as who has none, and
// ask something.
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

// notLeader is the code of the answer to GET /read-index where nobody can tell, and
// secretRequired that of the preface to who begins without one.
const (
	notLeader      = "not_leader"
	secretRequired = "secret_required"
)

// metadata is the answer to GET /metadata. Its names are read by instances of
// other versions: members may be added, never renamed, and one that this
// version does not know is ignored.
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

// readIndex is the answer to GET /read-index. Its names are as lasting.
type readIndex struct {
	RaftID    string `json:"raft_id"`
	ClusterID string `json:"cluster_id"`
	Index     uint64 `json:"index"`
	// Members are the ids of who belongs to the cluster.
	Members []string `json:"members,omitempty"`
}

// problem is every other answer, in the shape of RFC 9457 that the application
// API has as well.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Error  string `json:"error"`
}
