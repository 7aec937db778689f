package httpapi

import (
	"context"
	"errors"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// instanceBody is an instance as an operator asks for it, and as it is answered.
type instanceBody struct {
	ID       string           `json:"id"`
	Address  string           `json:"address"`
	Suffrage *domain.Suffrage `json:"suffrage"`
}

func instanceAnswer(i domain.Instance) answer {
	return answer{body: marshal(instanceBody{ID: i.ID, Address: i.RaftAddress, Suffrage: &i.Suffrage})}
}

func (s *Server) putInstance(ctx context.Context, r request) (answer, error) {
	if err := noCondition(r); err != nil {
		return answer{}, err
	}
	var body instanceBody
	if err := decodeBody(r, &body); err != nil {
		return answer{}, err
	}
	instance, err := domain.NewInstance(body.ID, body.Address, body.Suffrage)
	if err != nil {
		return answer{}, err
	}
	force, err := r.query.boolean(paramForce, false) // without asking the instance who it is
	if err != nil {
		return answer{}, err
	}
	now, err := s.config.Cluster.Add(ctx, instance, force)
	if err != nil {
		return answer{}, err
	}
	return instanceAnswer(now), nil
}

func (s *Server) deleteInstance(ctx context.Context, r request) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	if err := errors.Join(domain.CheckID("id", id), noCondition(r)); err != nil {
		return answer{}, err
	}
	if err := ignoreBody(r); err != nil {
		return answer{}, err
	}
	removed, err := s.config.Cluster.Remove(ctx, id)
	if err != nil {
		return answer{}, err
	}
	return instanceAnswer(removed), nil
}

type successorBody struct {
	ID *string `json:"id"`
}

type leaderBody struct {
	LeaderNodeID string `json:"leaderNodeID"`
}

func (s *Server) handOver(ctx context.Context, r request) (answer, error) {
	if err := noCondition(r); err != nil {
		return answer{}, err
	}
	var body successorBody
	if err := decodeOptionalBody(r, &body); err != nil {
		return answer{}, err
	}
	to := "" // any instance that is up to date
	if body.ID != nil {
		to = *body.ID
		if err := domain.CheckID("id", to); err != nil {
			return answer{}, err
		}
	}
	leader, err := s.config.Cluster.HandOver(ctx, to)
	if err != nil {
		return answer{}, err
	}
	return answer{body: marshal(leaderBody{LeaderNodeID: leader})}, nil
}

// memberBody is one instance in clusterBody.
type memberBody struct {
	NodeID             string          `json:"nodeID"`
	RaftAddress        string          `json:"raftAddress"`
	ApplicationAddress string          `json:"applicationAddress"`
	Suffrage           domain.Suffrage `json:"suffrage"`
	Reachable          bool            `json:"reachable"`
	Version            string          `json:"version"`
}

type clusterBody struct {
	NodesMetadata map[string]memberBody `json:"nodesMetadata"`
	LeaderNodeID  string                `json:"leaderNodeID"`
	Term          uint64                `json:"term"`
	ClusterID     string                `json:"clusterID"`
}

func clusterJSON(c domain.Cluster) []byte {
	body := clusterBody{
		NodesMetadata: make(map[string]memberBody, len(c.Members)),
		LeaderNodeID:  c.LeaderID,
		Term:          c.Term,
		ClusterID:     c.ID,
	}
	for _, m := range c.Members {
		body.NodesMetadata[m.ID] = memberBody{
			NodeID:             m.ID,
			RaftAddress:        m.RaftAddress,
			ApplicationAddress: m.ApplicationAddress,
			Suffrage:           m.Suffrage,
			Reachable:          m.Reachable,
			Version:            m.Version,
		}
	}
	return marshal(body)
}

func (s *Server) getCluster(ctx context.Context, r request) (answer, error) {
	source, err := r.query.source()
	if err != nil {
		return answer{}, err
	}
	cluster, err := s.config.Cluster.Describe(ctx, source)
	if err != nil {
		return answer{}, err
	}
	return answer{body: clusterJSON(cluster)}, nil
}

// clusterEventBody is the data of an event of the raft cluster. Empty fields are left out.
type clusterEventBody struct {
	Type               domain.ClusterEventType `json:"type"`
	NodeID             string                  `json:"nodeID"`
	RaftAddress        string                  `json:"raftAddress,omitzero"`
	ApplicationAddress string                  `json:"applicationAddress,omitzero"`
	Suffrage           domain.Suffrage         `json:"suffrage,omitzero"`
	Reachable          *bool                   `json:"reachable,omitzero"`
	Version            string                  `json:"version,omitzero"`
	Term               uint64                  `json:"term"`
}

func clusterEventJSON(e *domain.ClusterEvent) []byte {
	body := clusterEventBody{
		Type:               e.Type,
		NodeID:             e.Member.ID,
		RaftAddress:        e.Member.RaftAddress,
		ApplicationAddress: e.Member.ApplicationAddress,
		Suffrage:           e.Member.Suffrage,
		Reachable:          &e.Member.Reachable,
		Version:            e.Member.Version,
		Term:               e.Term,
	}
	if e.Type == domain.InstanceRemoved || e.Member.ID == "" {
		// Reachability is not checked for an instance that was removed, or without a leader.
		body.Reachable = nil
	}
	return marshal(body)
}
