package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Node is a cache node as the API shows it.
type Node struct {
	ID              string            `json:"id"`
	Address         string            `json:"address"`
	Pool            string            `json:"pool,omitempty"`
	Weight          *int              `json:"weight,omitempty"`
	Zone            string            `json:"zone,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	State           string            `json:"state,omitempty"`
	TTLSeconds      int               `json:"ttlSeconds,omitempty"`
	OnExpiry        string            `json:"onExpiry,omitempty"`
	Slot            int               `json:"slot"`
	CreatedRevision uint64            `json:"createdRevision"`
	Revision        uint64            `json:"revision"`
}

// NewNode returns a node with the given id and an address derived from it.
func NewNode(id string) Node { return Node{ID: id, Address: id + ".example:11211"} }

// IfRevision is the condition that the node exists at this revision.
func IfRevision(revision uint64) Header {
	return Header{"If-Match", `"` + strconv.FormatUint(revision, 10) + `"`}
}

// IfAbsent is the condition that the node does not exist.
func IfAbsent() Header { return Header{"If-None-Match", "*"} }

// Stored is the answer to a write, or a read, of one node.
type Stored struct {
	Node
	Created bool
	// Seen is the revision of the registry that the answer names.
	Seen uint64
}

// Put registers or replaces a node.
func (c *Client) Put(ctx context.Context, node Node, conditions ...Header) (Stored, error) {
	answer, err := c.Do(ctx, http.MethodPut, "/nodes/"+url.PathEscape(node.ID), node, conditions...)
	return stored(answer, err)
}

// Get returns one node. If there is none, the error is a *Problem with status 404.
func (c *Client) Get(ctx context.Context, id string) (Stored, error) {
	answer, err := c.Do(ctx, http.MethodGet, "/nodes/"+url.PathEscape(id), nil)
	return stored(answer, err)
}

// Delete removes a node and returns the node as it was.
func (c *Client) Delete(ctx context.Context, id string, conditions ...Header) (Stored, error) {
	answer, err := c.Do(ctx, http.MethodDelete, "/nodes/"+url.PathEscape(id), nil, conditions...)
	return stored(answer, err)
}

func stored(answer Answer, err error) (Stored, error) {
	if err != nil {
		return Stored{}, err
	}
	s := Stored{Created: answer.Status == http.StatusCreated}
	if s.Seen, err = decode(answer, &s.Node); err != nil {
		return Stored{}, err
	}
	return s, nil
}

// decode decodes a JSON answer about the registry and returns the revision that it names.
func decode(answer Answer, target any) (uint64, error) {
	if answer.Status >= 300 {
		return 0, fmt.Errorf("%d from %s: %s", answer.Status, answer.From, answer.Body)
	}
	if err := json.Unmarshal(answer.Body, target); err != nil {
		return 0, fmt.Errorf("%w: %.200q", err, answer.Body)
	}
	return answer.Revision()
}

// Registry is the whole registry at one revision.
type Registry struct {
	Revision uint64
	Nodes    map[string]Node
}

// List returns the whole registry.
func (c *Client) List(ctx context.Context) (Registry, error) {
	answer, err := c.Do(ctx, http.MethodGet, "/nodes", nil)
	if err != nil {
		return Registry{}, err
	}
	registry := Registry{}
	registry.Revision, err = decode(answer, &registry.Nodes)
	return registry, err
}
