package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Member is an instance as PUT /raft/node takes it.
type Member struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Suffrage string `json:"suffrage,omitempty"`
}

// RaftAdd adds an instance to the raft cluster.
func (c *Client) RaftAdd(ctx context.Context, member Member) error {
	_, err := c.Do(ctx, http.MethodPut, "/raft/node", member)
	return err
}

// RaftForce adds an instance to the raft cluster without first asking it for its
// identity, and returns the member as it was added.
func (c *Client) RaftForce(ctx context.Context, member Member) (Member, error) {
	answer, err := c.Do(ctx, http.MethodPut, "/raft/node?force=true", member)
	if err != nil {
		return Member{}, err
	}
	var now Member
	return now, json.Unmarshal(answer.Body, &now)
}

// RaftHandOver hands leadership to the voter with the given id, or to any voter if
// id is empty. It returns the id of the new leader.
func (c *Client) RaftHandOver(ctx context.Context, id string) (string, error) {
	var body any
	if id != "" {
		body = map[string]string{"id": id}
	}
	answer, err := c.Do(ctx, http.MethodPost, "/raft/leadership", body)
	if err != nil {
		return "", err
	}
	var leader struct {
		ID string `json:"leaderNodeID"`
	}
	return leader.ID, json.Unmarshal(answer.Body, &leader)
}

// RaftRemove removes an instance from the raft cluster.
func (c *Client) RaftRemove(ctx context.Context, id string) error {
	_, err := c.Do(ctx, http.MethodDelete, "/raft/node/"+url.PathEscape(id), nil)
	return err
}

// Metadata is the answer of GET /raft/metadata.
type Metadata struct {
	NodesMetadata map[string]InstanceMetadata `json:"nodesMetadata"`
	LeaderNodeID  string                      `json:"leaderNodeID"`
	Term          uint64                      `json:"term"`
	ClusterID     string                      `json:"clusterID"`
}

// InstanceMetadata is one instance in Metadata.
type InstanceMetadata struct {
	NodeID             string `json:"nodeID"`
	RaftAddress        string `json:"raftAddress"`
	ApplicationAddress string `json:"applicationAddress"`
	Suffrage           string `json:"suffrage"`
	Reachable          bool   `json:"reachable"`
	Version            string `json:"version"`
}

// Metadata describes the raft cluster.
func (c *Client) Metadata(ctx context.Context) (Metadata, error) {
	var metadata Metadata
	return metadata, c.get(ctx, "/raft/metadata", &metadata)
}

// Readiness is the answer of GET /readyz.
type Readiness struct {
	Ready     bool     `json:"ready"`
	Reasons   []string `json:"reasons"`
	Member    bool     `json:"member"`
	Leading   bool     `json:"leading"`
	LeaderID  string   `json:"leaderNodeID"`
	Term      uint64   `json:"term"`
	ClusterID string   `json:"clusterID"`
	Revision  uint64   `json:"revision"`

	ExpiryHeld []HeldPool `json:"expiryHeld"`
}

// HeldPool is a pool whose expiry the leader holds back.
type HeldPool struct {
	Pool    string `json:"pool"`
	Overdue int    `json:"overdue"`
	Leased  int    `json:"leased"`
}

// Ready returns the answer of /readyz. It is no error if the instance is not ready.
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	var ready Readiness
	return ready, c.get(ctx, "/readyz", &ready)
}

func (c *Client) get(ctx context.Context, path string, target any) error {
	answer, err := c.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer.Body, target); err != nil {
		return fmt.Errorf("GET %s: %w: %.200q", path, err, answer.Body)
	}
	return nil
}

// Metrics returns the samples of /metrics by name and labels, as written there.
func (c *Client) Metrics(ctx context.Context) (map[string]float64, error) {
	answer, err := c.Do(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	samples := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(answer.Body)); lines.Scan(); {
		line := lines.Text()
		end := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || end < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("GET /metrics: %q: %w", line, err)
		}
		samples[line[:end]] = value
	}
	return samples, nil
}
