package harness

import (
	"context"
	"net/http"
	"net/url"
)

// Heartbeat renews the time to live of a node and returns the node.
func (c *Client) Heartbeat(ctx context.Context, id string) (Stored, error) {
	answer, err := c.Do(ctx, http.MethodPost, "/nodes/"+url.PathEscape(id)+"/heartbeat", nil)
	return stored(answer, err)
}

// Expired is the answer to a forced expiry of a pool.
type Expired struct {
	Revision uint64   `json:"revision"`
	IDs      []string `json:"expired"`
}

// ExpirePool expires the nodes of a pool whose time to live has run out, even if
// their expiry is held back.
func (c *Client) ExpirePool(ctx context.Context, pool string) (Expired, error) {
	answer, err := c.Do(ctx, http.MethodPost, "/nodes/expire?pool="+url.QueryEscape(pool), nil)
	if err != nil {
		return Expired{}, err
	}
	var expired Expired
	_, err = decode(answer, &expired)
	return expired, err
}
