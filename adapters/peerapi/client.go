package peerapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// maxAnswer is far more than an answer with all members needs.
	maxAnswer = 1 << 20
	// maxHeader is far more than the header of an answer needs.
	maxHeader = 16 << 10
	// maxVersion bounds what an untrusted instance can make an operator read.
	maxVersion = 128
	// maxIdle is how many idle connections are kept to each instance.
	maxIdle = 2
	// keepIdle is less than the idleTimeout of Server.
	keepIdle = 60 * time.Second
	// dialTimeout bounds a dial whose request has ended: net/http lets it go on, so
	// that the next request may use the connection.
	dialTimeout = 5 * time.Second
	// handshakeTimeout bounds the proof of the secret. It is less than callers wait, so
	// that they learn what took so long.
	handshakeTimeout = 750 * time.Millisecond
)

// Client implements ports.Peers over the raft ports of other instances. It reuses
// connections, and resolves the name in an address whenever it makes a new one.
type Client struct {
	http      http.Client
	handshake func(net.Conn) error
	ctx       context.Context // ends with Close, and ends all dials
	end       context.CancelFunc
	dials     sync.WaitGroup
	mu        sync.Mutex // orders dials and Close: no dial begins after it
}

// NewClient returns a client without connections. The preface is for instances that
// share a secret; nil if there is none.
func NewClient(secret *preface.Preface) *Client {
	c := &Client{handshake: func(net.Conn) error { return nil }}
	if secret != nil {
		c.handshake = func(conn net.Conn) error {
			_, err := secret.Dial(conn) // only raft's connections can be restricted
			return err
		}
	}
	c.ctx, c.end = context.WithCancel(context.Background())
	c.http = http.Client{
		// No Proxy: these connections begin with a byte that no proxy knows.
		Transport: &http.Transport{
			DialContext:            c.dial,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    maxIdle,
			IdleConnTimeout:        keepIdle,
			MaxResponseHeaderBytes: maxHeader,
		},
		// An instance that answers with a redirect is not one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Close ends the requests in flight and closes idle connections. Later requests fail
// with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.dials.Wait()
	c.http.CloseIdleConnections()
	return nil
}

// Identify implements ports.Peers. An answer with an application address that can't be
// used in a redirect is an error. It is safe for concurrent use and blocks no longer than
// ctx.
func (c *Client) Identify(ctx context.Context, raftAddress string) (ports.Identity, error) {
	body, err := c.ask(ctx, raftAddress, metadataPath)
	var identity ports.Identity
	if err == nil {
		identity, err = decode(body)
	}
	if err != nil {
		return ports.Identity{}, fmt.Errorf("peerapi: ask the instance at %s: %w", raftAddress, err)
	}
	return identity, nil
}

// ReadIndex implements ports.Peers. It is safe for concurrent use and blocks no
// longer than ctx.
func (c *Client) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	body, err := c.ask(ctx, raftAddress, readIndexPath)
	var index ports.ReadIndex
	if err == nil {
		index, err = decodeReadIndex(body)
	}
	if err != nil {
		return ports.ReadIndex{}, fmt.Errorf("peerapi: ask the leader at %s: %w", raftAddress, err)
	}
	return index, nil
}

// ask returns the body of an answer with status 200.
func (c *Client) ask(ctx context.Context, raftAddress, path string) ([]byte, error) {
	if c.ctx.Err() != nil {
		return nil, ports.ErrClosed
	}
	// The address becomes part of a URL, so it must be nothing but host and port.
	if err := domain.CheckAddress("raft address", raftAddress); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()

	target := url.URL{Scheme: "http", Host: raftAddress, Path: path}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	switch {
	case c.ctx.Err() != nil && err != nil:
		return nil, ports.ErrClosed
	case err != nil:
		return nil, withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("its answer is over %d bytes", maxAnswer)
	case response.StatusCode != http.StatusOK:
		return nil, refusal(response.StatusCode, body)
	}
	return body, nil
}

// refusal returns the error for an answer with a status other than 200.
func refusal(status int, body []byte) error {
	var p problem
	switch err := json.Unmarshal(body, &p); {
	case err == nil && p.Code == notLeader:
		return ports.ErrNotLeader
	case err == nil && p.Code == secretRequired:
		return fmt.Errorf("%w: it is missing here", preface.ErrNoSecret)
	}
	return fmt.Errorf("it answered with status %d", status)
}

func decodeReadIndex(body []byte) (ports.ReadIndex, error) {
	var r readIndex
	if err := json.Unmarshal(body, &r); err != nil {
		return ports.ReadIndex{}, fmt.Errorf("its answer is no read index: %w", err)
	}
	var missing error
	if r.Index == 0 {
		missing = errors.New("index is missing")
	}
	if err := errors.Join(
		missing,
		domain.CheckID("raft_id", r.RaftID),
		checkWord("cluster_id", r.ClusterID, domain.MaxIDBytes),
	); err != nil {
		return ports.ReadIndex{}, fmt.Errorf("its answer is no read index: %v", err)
	}
	return ports.ReadIndex{RaftID: r.RaftID, ClusterID: r.ClusterID, Index: r.Index, Members: r.Members}, nil
}

// decode decodes and validates an answer. It ignores fields that it does not know, which
// are those of a later version.
func decode(body []byte) (ports.Identity, error) {
	var m metadata
	if err := json.Unmarshal(body, &m); err != nil {
		return ports.Identity{}, fmt.Errorf("its answer is no instance metadata: %w", err)
	}
	faults := []error{
		domain.CheckID("raft_id", m.RaftID),
		domain.CheckAdvertisedAddress("application_address", m.ApplicationAddress),
		checkWord("cluster_id", m.ClusterID, domain.MaxIDBytes),
		checkWord("version", m.Version, maxVersion),
		checkWord("process", m.Process, domain.MaxIDBytes),
	}
	if err := errors.Join(faults...); err != nil {
		return ports.Identity{}, fmt.Errorf("its answer is no instance metadata: %v", err)
	}
	return ports.Identity{
		RaftID:             m.RaftID,
		ApplicationAddress: m.ApplicationAddress,
		ClusterID:          m.ClusterID,
		Version:            m.Version,
		Applied:            m.AppliedIndex,
		Format:             int(m.Format),
		Quarantined:        m.Quarantined,
		Process:            m.Process,
	}, nil
}

// checkWord makes sure that text from another instance, which ends up in logs and answers,
// is short printable ASCII.
func checkWord(field, word string, longest int) error {
	if len(word) > longest {
		return fmt.Errorf("%s is over %d bytes", field, longest)
	}
	for _, r := range word {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%s has characters other than printable ASCII: %q", field, word)
		}
	}
	return nil
}

// dial makes a connection and carries out the handshake. net/http calls it with a ctx that
// has the values of the request's, but does not end with the request.
func (c *Client) dial(ctx context.Context, _, address string) (net.Conn, error) {
	c.mu.Lock()
	if c.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, ports.ErrClosed
	}
	c.dials.Add(1)
	c.mu.Unlock()
	defer c.dials.Done()

	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	conn, err := demux.Dial(ctx, address, Lane)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	unbind := context.AfterFunc(bounded, func() { _ = conn.Close() })
	err = c.handshake(conn)
	if !unbind() {
		// Builds without AcceptWithout take a preface for the beginning of a request.
		err = fmt.Errorf("prove the raft secret: %w: the other side says nothing, it may have no raft secret", bounded.Err())
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// withoutURL removes the URL from an error of an http.Client: the caller names the
// address.
func withoutURL(err error) error {
	if fault, ok := errors.AsType[*url.Error](err); ok {
		return fault.Err
	}
	return err
}
