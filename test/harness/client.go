package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// requestTimeout is longer than 10 s, within which the server ends every request
// that does not ask for a wait. A request that takes longer hangs.
const requestTimeout = 12 * time.Second

// Client talks to the application API at one address. Its methods may be called
// from any goroutine.
type Client struct {
	address string
	query   string
	wait    time.Duration
	http    *http.Client
}

// NewClient returns a client that follows redirects. It closes its connections when t ends.
func NewClient(t testing.TB, address string) *Client {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 256,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{address: address, http: &http.Client{Transport: transport}}
}

// Address is the address that the client talks to.
func (c *Client) Address() string { return c.address }

// NotFollowing returns a client for the same address, on the same connections, that
// returns redirects instead of following them.
func (c *Client) NotFollowing() *Client {
	not, plain := *c, *c.http
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	not.http = &plain
	return &not
}

// With returns a client for the same address, on the same connections, that adds
// query, such as "redirect=false", to every request.
func (c *Client) With(query string) *Client {
	with := *c
	with.query = joined(c.query, query)
	return &with
}

// Waiting returns a client for the same address, on the same connections, for
// requests that ask the server to wait: their timeout is longer by wait.
func (c *Client) Waiting(wait time.Duration) *Client {
	waiting := c.With("wait=" + wait.String())
	waiting.wait = wait
	return waiting
}

func joined(query, more string) string {
	if query == "" || more == "" {
		return query + more
	}
	return query + "&" + more
}

// target returns the URL for path, which may have a query of its own.
func (c *Client) target(path string) string {
	path, query, _ := strings.Cut(path, "?")
	target := "http://" + c.address + path
	if query = joined(query, c.query); query != "" {
		target += "?" + query
	}
	return target
}

// forget closes the idle connections.
func (c *Client) forget() { c.http.CloseIdleConnections() }

// Answer is a response with its whole body.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// From is the address that answered, after redirects.
	From string
}

// Revision returns the revision of the registry that the answer names.
func (a Answer) Revision() (uint64, error) {
	return strconv.ParseUint(a.Header.Get("Nodesmetadata-Revision"), 10, 64)
}

// Problem is the error for an answer with a status of 400 or more.
type Problem struct {
	Answer Answer `json:"-"`
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Older  string `json:"error"`
	Node   *Node  `json:"node"`
	Leader string `json:"leader"`
}

// Error implements error, with what an operator would want to read.
func (p *Problem) Error() string {
	return fmt.Sprintf("%d %s from %s: %s", p.Answer.Status, p.Code, p.Answer.From, p.Detail)
}

// Header is one header of a request.
type Header struct{ Name, Value string }

// Do sends a request. A body that is a []byte, a string or an io.Reader is sent as
// it is, nil sends none, and anything else is sent as JSON. An answer with a status
// of 400 or more is returned as a *Problem, which holds the answer.
func (c *Client) Do(ctx context.Context, method, path string, body any, headers ...Header) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout+c.wait)
	defer cancel()
	response, err := c.send(ctx, method, path, body, headers)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	answer := Answer{response.StatusCode, response.Header, content, response.Request.URL.Host}
	if answer.Status < 400 || method == http.MethodGet && path == "/readyz" {
		return answer, nil
	}
	problem := &Problem{Answer: answer}
	if err := json.Unmarshal(content, problem); err != nil && method != http.MethodHead {
		return answer, fmt.Errorf("%s %s: %d with a body that is no problem document: %.200q", method, path, answer.Status, content)
	}
	return answer, problem
}

func (c *Client) send(ctx context.Context, method, path string, body any, headers []Header) (*http.Response, error) {
	content, err := reader(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.target(path), content)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		request.Header.Add(h.Name, h.Value)
	}
	return c.http.Do(request)
}

func reader(body any) (io.Reader, error) {
	switch body := body.(type) {
	case nil:
		return nil, nil
	case []byte:
		return bytes.NewReader(body), nil
	case string:
		return bytes.NewReader([]byte(body)), nil
	case io.Reader:
		return body, nil
	}
	encoded, err := json.Marshal(body)
	return bytes.NewReader(encoded), err
}

// Outcome is what a client knows about the effect of a write.
type Outcome int

// The outcomes.
const (
	Done    Outcome = iota // it took effect
	NotDone                // it did not take effect, and never will
	Unknown                // it may have taken effect, or still may
)

// OutcomeOf derives the outcome of a write from its error.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Done
	}
	if problem := new(Problem); errors.As(err, &problem) {
		if problem.Answer.Status < 500 || problem.Answer.Status == http.StatusServiceUnavailable && problem.Code != "outcome_unknown" {
			return NotDone
		}
		return Unknown
	}
	if fault := new(net.OpError); errors.As(err, &fault) && fault.Op == "dial" {
		return NotDone
	}
	return Unknown
}
