// Package peerapi is what instances ask one another on the raft port: one small
// HTTP API, on a lane of its own beside raft's, that says who answers here, where
// its application API is, how far it has come in the log, and, if it leads, how far
// another instance has to be to answer a read. Server answers, Client asks.
//
// It never says anything that is worth a secret (whoever reaches the raft port
// can ask), never changes anything, and never decides whether an answer is the
// one that was hoped for: that an address now belongs to another instance, or to
// another cluster, is for the asker to notice.
package peerapi

// Lane is the first byte of a connection to this API.
const Lane byte = 0x02

// MaxOpen is how many connections the lane should hold at once
// (demux.LaneConfig.MaxOpen). Whoever connects here has proved nothing, so the
// bound keeps strangers from using up the file descriptors of raft and of the
// application API; peers need one or two each.
const MaxOpen = 256

const (
	metadataPath  = "/metadata"
	readIndexPath = "/read-index"
)

// notLeader is the code of the answer to GET /read-index where nobody can tell.
const notLeader = "not_leader"

// metadata is the answer to GET /metadata. Its names are read by instances of
// other versions: members may be added, never renamed, and one that this
// version does not know is ignored.
type metadata struct {
	ApplicationAddress string `json:"application_address"`
	RaftID             string `json:"raft_id"`
	ClusterID          string `json:"cluster_id"`
	Version            string `json:"version"`
	AppliedIndex       uint64 `json:"applied_index,omitzero"`
	Quarantined        bool   `json:"quarantined,omitzero"`
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
