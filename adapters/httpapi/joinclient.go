package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

const (
	// maxJoinHops is how many redirects are followed: one leads to the leader,
	// and a second happens when leadership changes meanwhile.
	maxJoinHops = 3

	// maxJoinAnswer is far longer than any answer of an instance.
	maxJoinAnswer = 64 << 10

	joinDialTimeout = 3 * time.Second
)

// JoinClient implements ports.Admission: it sends PUT /raft/node to another
// instance's application API. Safe for concurrent use.
type JoinClient struct {
	client *http.Client
}

// NewJoinClient returns a client that keeps no connections.
func NewJoinClient() *JoinClient {
	dialer := &net.Dialer{Timeout: joinDialTimeout}
	return &JoinClient{client: &http.Client{
		// No Proxy: instances reach each other directly, whatever the environment says.
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: checkJoinRedirect,
	}}
}

// checkJoinRedirect follows only redirects that keep the method and the body.
func checkJoinRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxJoinHops:
		return fmt.Errorf("more than %d redirects", maxJoinHops)
	case r.Method != http.MethodPut:
		return errors.New("redirected with a status that would lose the request")
	}
	return nil
}

// Ask implements ports.Admission. Its error says what the other instance
// answered.
func (c *JoinClient) Ask(ctx context.Context, applicationAddress string, instance domain.Instance) error {
	target := url.URL{Scheme: "http", Host: applicationAddress, Path: "/raft/node"}
	body := marshal(instanceBody{ID: instance.ID, Address: instance.RaftAddress, Suffrage: &instance.Suffrage})
	// A bytes.Reader can be read again, for a redirect.
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, target.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask %s for membership: %w", applicationAddress, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask %s for membership: %w", applicationAddress, err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxJoinAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("ask %s for membership: %w", applicationAddress, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s refused membership: %s", response.Request.URL.Host, explainRefusal(response, answer))
	case !confirms(answer, instance):
		// Another server may be at that address, and answer everything with 200.
		return fmt.Errorf("%s answered %s, but not that %q is a member at %s: is it an application address of the cluster?",
			response.Request.URL.Host, response.Status, instance.ID, instance.RaftAddress)
	}
	return nil
}

// confirms reports whether answer says that instance is a member at its address, with any
// suffrage.
func confirms(answer []byte, instance domain.Instance) bool {
	var now struct {
		ID      string `json:"id"`
		Address string `json:"address"`
	}
	err := json.Unmarshal(answer, &now)
	return err == nil && now.ID == instance.ID && now.Address == instance.RaftAddress
}

// explainRefusal describes a refusal by its problem document, if it has one.
func explainRefusal(response *http.Response, answer []byte) string {
	var p problem
	if err := json.Unmarshal(answer, &p); err != nil || p.Code == "" {
		return response.Status
	}
	return fmt.Sprintf("%s: %s (%s)", response.Status, oneLine(p.Detail), p.Code)
}
