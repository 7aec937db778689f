package harness

import (
	"context"
	"fmt"
	"net/http"
)

// BatchChange is one change of a batch. Either Put or Remove is set.
type BatchChange struct {
	Put        *Node   `json:"put,omitempty"`
	Remove     string  `json:"remove,omitempty"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
}

// Puts returns the changes that put nodes.
func Puts(nodes ...Node) []BatchChange {
	changes := make([]BatchChange, len(nodes))
	for i := range nodes {
		changes[i].Put = &nodes[i]
	}
	return changes
}

// Batch is the answer to a batch. Results are in the order of its changes.
type Batch struct {
	Revision uint64        `json:"revision"`
	Results  []BatchResult `json:"results"`
}

// BatchResult is what one change of a batch did.
type BatchResult struct {
	Type     string `json:"type"`
	Revision uint64 `json:"revision"`
	Node     Node   `json:"node"`
}

// Batch makes all of the changes or none of them.
func (c *Client) Batch(ctx context.Context, changes []BatchChange) (Batch, error) {
	body := struct {
		Changes []BatchChange `json:"changes"`
	}{changes}
	answer, err := c.Do(ctx, http.MethodPost, "/nodes/batch", body)
	if err != nil {
		return Batch{}, err
	}
	var batch Batch
	seen, err := decode(answer, &batch)
	if err == nil && (seen != batch.Revision || len(batch.Results) != len(changes)) {
		err = fmt.Errorf("a batch of %d changes is answered with %d results at revision %d; the header names %d",
			len(changes), len(batch.Results), batch.Revision, seen)
	}
	return batch, err
}
